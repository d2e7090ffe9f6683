// Package notify is the quickest relay that is simple: it is notified of a commit,
// reads what it has not taken yet, publishes it and deletes it once confirmed. It keeps
// no order beyond that of reading, survives no lost connection, and must be alone; it
// is there to be compared with.
package notify

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/internal/measure"
)

const (
	table = `
CREATE TABLE message (
	id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	uid     uuid   NOT NULL,
	topic   text   NOT NULL,
	key     text   NOT NULL,
	payload bytea  NOT NULL
)`
	insertMessage = `INSERT INTO message (uid, topic, key, payload) VALUES ($1, $2, $3, $4)`
	notifyRelay   = `SELECT pg_notify(current_schema(), '')`

	// Rows are committed in another order than that of their ids, so the relay names
	// those that it has taken instead of a position.
	readRows   = `SELECT id, uid::text, topic, key, payload FROM message WHERE id <> ALL ($1::bigint[]) ORDER BY id`
	deleteRows = `DELETE FROM message WHERE id = ANY ($1::bigint[])`

	// readSettings have a read walk the primary key, whose entries of deleted rows cost
	// nothing once they have been met, and plan it once.
	readSettings = `SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan`

	// deletePause is how long confirmed rows gather for one DELETE.
	deletePause = 10 * time.Millisecond
)

// System is the relay and what notifies it.
type System struct{ settings *work.Settings }

// New connects to nothing yet.
func New(_ context.Context, s *work.Settings) (*System, error) { return &System{settings: s}, nil }

// Describe tells what it is.
func (s *System) Describe() work.Description {
	return work.Description{
		Name:    "notify",
		Modules: []string{"github.com/jackc/pgx/v5"},
		Settings: map[string]string{
			"emit": "INSERT and SELECT pg_notify in one round trip", "delete_pause": deletePause.String(),
			"read":      "by the primary key, once for all notifications received",
			"publisher": "outbox's own for RabbitMQ",
		},
	}
}

// SetUp makes the tables.
func (s *System) SetUp(ctx context.Context) error {
	conn, err := work.OpenConn(ctx, s.settings)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, work.BusinessTable+";"+table)
	return errors.Join(err, conn.Close(ctx))
}

// Fill is not needed.
func (s *System) Fill(context.Context, measure.Load) error { return errors.ErrUnsupported }

// Close does nothing.
func (s *System) Close() {}

// Emitter returns one with a connection of its own.
func (s *System) Emitter(ctx context.Context) (work.Emitter, error) {
	conn, err := work.OpenConn(ctx, s.settings)
	if err != nil {
		return nil, err
	}
	return &work.TxEmitter{Conn: conn, Insert: insert}, nil
}

func insert(ctx context.Context, tx pgx.Tx, e work.Event) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	var batch pgx.Batch
	batch.Queue(insertMessage, id.String(), measure.Topic, e.Key, e.Payload)
	batch.Queue(notifyRelay)
	return tx.SendBatch(ctx, &batch).Close()
}

// relay is what a running one knows.
type relay struct {
	publisher outbox.Publisher
	taken     map[int64]bool // read, and not known to be deleted
	free      chan struct{}  // holds one for each unanswered message
	fail      context.CancelCauseFunc

	mu        sync.Mutex
	confirmed []int64
	deleted   []int64
	wake      chan struct{} // something is confirmed
}

// Relay listens, and reads at each notification.
func (s *System) Relay(ctx context.Context, ready func()) error {
	working, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	publisher, err := work.Publisher(s.settings)
	if err != nil {
		return err
	}
	defer func() { _ = publisher.Close() }()
	reader, err := work.OpenConn(ctx, s.settings)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close(context.WithoutCancel(ctx)) }()
	deleter, err := work.OpenConn(ctx, s.settings)
	if err != nil {
		return err
	}
	defer func() { _ = deleter.Close(context.WithoutCancel(ctx)) }()
	r := &relay{
		publisher: publisher, taken: make(map[int64]bool), free: make(chan struct{}, s.settings.Window),
		fail: fail, wake: make(chan struct{}, 1),
	}
	var deleting sync.WaitGroup
	deleting.Go(func() { fail(r.deleteConfirmed(working, deleter)) })
	if _, err = reader.Exec(ctx, readSettings+"; LISTEN "+pgx.Identifier{s.settings.Name}.Sanitize()); err == nil {
		ready()
		err = r.run(working, reader)
	}
	fail(err)
	deleting.Wait()
	if ctx.Err() != nil { // it was told to end
		return nil
	}
	return context.Cause(working)
}

func (r *relay) run(ctx context.Context, conn *pgx.Conn) error {
	over, cancel := context.WithCancel(ctx)
	cancel() // with it only what has been received is returned
	for {
		if err := r.read(ctx, conn); err != nil {
			return err
		}
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return err
		}
		// One read will do for all that have come by now.
		var empty error
		for empty == nil {
			_, empty = conn.WaitForNotification(over)
		}
	}
}

// read publishes what has not been taken.
func (r *relay) read(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, readRows, r.open())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		m := &outbox.Message{ContentType: outbox.ContentTypeBytes}
		if err := rows.Scan(&id, &m.ID, &m.Topic, &m.Key, &m.Payload); err != nil {
			return err
		}
		r.taken[id] = true
		r.publish(ctx, id, m)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return r.flush()
}

// open returns the rows that a read must leave out: those taken that were not deleted
// before it begins.
func (r *relay) open() []int64 {
	r.mu.Lock()
	for _, id := range r.deleted {
		delete(r.taken, id)
	}
	r.deleted = r.deleted[:0]
	r.mu.Unlock()
	return slices.AppendSeq(make([]int64, 0, len(r.taken)), maps.Keys(r.taken))
}

func (r *relay) flush() error {
	if f, ok := r.publisher.(outbox.Flusher); ok {
		return f.Flush()
	}
	return nil
}

func (r *relay) publish(ctx context.Context, id int64, m *outbox.Message) {
	select {
	case r.free <- struct{}{}:
	default:
		_ = r.flush() // it answers its messages, with what is wrong
		r.free <- struct{}{}
	}
	r.publisher.Publish(ctx, m, func(err error) {
		<-r.free
		if err != nil {
			r.fail(err)
			return
		}
		r.mu.Lock()
		r.confirmed = append(r.confirmed, id)
		r.mu.Unlock()
		select {
		case r.wake <- struct{}{}:
		default:
		}
	})
}

// deleteConfirmed deletes what the broker has confirmed, until ctx ends.
func (r *relay) deleteConfirmed(ctx context.Context, conn *pgx.Conn) error {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil
		}
		work.Pause(deletePause)
		r.mu.Lock()
		ids := r.confirmed
		r.confirmed = nil
		r.mu.Unlock()
		if _, err := conn.Exec(ctx, deleteRows, ids); err != nil {
			return err
		}
		r.mu.Lock()
		r.deleted = append(r.deleted, ids...)
		r.mu.Unlock()
	}
}
