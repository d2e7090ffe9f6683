package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// EmitOptions say what [Emit] runs.
type EmitOptions struct {
	// DatabaseURL is the database; empty for an SQLite file in a temporary folder.
	DatabaseURL string

	// Connections is how many transactions run at once. SQLite has one writer: 1.
	Connections int

	// Rounds is how many slices each variant gets, and Slice how long one takes.
	Rounds int
	Slice  time.Duration

	Payload int // bytes

	// Profile is a folder for the profiles of the slices; empty for none.
	Profile string
	Program string // version
	Logger  *slog.Logger
}

// emitVariant is a way to run the business transaction: an UPDATE of a row that no
// other transaction touches, and an INSERT into a table.
type emitVariant struct {
	name  string
	means string // for people

	// plain is the variant without the outbox whose statements go to the database in
	// the same manner. A variant without the outbox is its own.
	plain string

	// mode is what the bed sets before a slice; a bed knows its own.
	mode string

	run func(ctx context.Context, t emitTx) error
}

func (v *emitVariant) emits() bool { return v.plain != v.name }

// emitTx is one transaction.
type emitTx struct {
	row      int   // to update
	id       int64 // of the row to insert, and the key of its message
	rollBack bool
}

// event is the message of the transaction.
func (t emitTx) event(payload []byte) outbox.Event {
	return outbox.Event{Topic: measure.Topic, Key: fmt.Sprint(t.id), Payload: payload}
}

// errEmitRollBack makes a transaction roll back as planned.
var errEmitRollBack = errors.New("rolled back on purpose")

// emitBed is a database to emit in.
type emitBed interface {
	// setUp makes the tables, with that many rows to update.
	setUp(ctx context.Context, rows int) error
	variants() []emitVariant
	// prepare has the database ready for a slice.
	prepare(ctx context.Context, mode string) error
	// count compares the tables, and clear empties them.
	count(ctx context.Context) (emitCount, error)
	clear(ctx context.Context) error
	close()
}

// emitCount is what is in the tables.
type emitCount struct {
	orders, messages int
	alone            int // orders without a message, if there are messages, and messages without an order
}

// Emit runs the same business transaction with and without the outbox, in slices that
// take turns, and removes all that it has made.
func Emit(ctx context.Context, o EmitOptions) (result *EmitResult, err error) {
	own, err := scratch.New("outbox_bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.Remove(ctx)) }()
	const besides = 4 // notifications, and looking at the tables
	database, err := own.Database(ctx, o.DatabaseURL, o.Connections+besides, o.Logger)
	if err != nil {
		return nil, err
	}
	bed := newEmitBed(database, &o)
	defer bed.close()
	if err := bed.setUp(ctx, o.Connections); err != nil {
		return nil, fmt.Errorf("set up the tables: %w", err)
	}
	conditions, err := conditionsOf(ctx, o.Program, database, nil)
	if err != nil {
		return nil, err
	}
	r := &emitRun{EmitOptions: o, bed: bed, variants: bed.variants()}
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	return r.result(conditions), nil
}

func newEmitBed(d *scratch.Database, o *EmitOptions) emitBed {
	load := measure.Load{Payload: o.Payload}
	if d.Postgres != nil {
		return &emitPostgres{database: d, payload: load.Body(0), logger: o.Logger}
	}
	return &emitSQLite{database: d, payload: load.Body(0)}
}

// DefaultEmitConnections returns how many transactions run at once on the database
// that url names, unless told.
func DefaultEmitConnections(url string) int {
	if wire.DatabaseKind(url) == wire.Postgres {
		return 32
	}
	return 1
}

// emitRun is a run of all variants.
type emitRun struct {
	EmitOptions
	bed      emitBed
	variants []emitVariant
	slices   [][]emitSlice // by variant and round

	nextID              atomic.Int64
	lost, phantom       int
	committed, rolledBk int
}

// emitSlice is what a slice has shown.
type emitSlice struct {
	committed int
	perSecond float64
}

func (r *emitRun) run(ctx context.Context) error {
	profile, err := newProfiler(r.Profile)
	if err != nil {
		return err
	}
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	if err := profile.start(); err != nil {
		return err
	}
	for round := range r.Rounds {
		if err := r.round(ctx, round); err != nil {
			return errors.Join(err, profile.stop())
		}
	}
	return profile.stop()
}

// warmUp lets each connection prepare its statements.
func (r *emitRun) warmUp(ctx context.Context) error {
	r.slices = make([][]emitSlice, len(r.variants))
	for i := range r.variants {
		if _, err := r.slice(ctx, &r.variants[i], r.Slice/5); err != nil {
			return err
		}
	}
	return nil
}

// round runs a slice of each variant, in an order of the round's own: in the same one
// each variant would always bear what the one before it has left.
func (r *emitRun) round(ctx context.Context, round int) error {
	for _, v := range rand.New(rand.NewPCG(uint64(round), 0)).Perm(len(r.variants)) { //nolint:gosec // a number from 0, and no secret
		slice, err := r.slice(ctx, &r.variants[v], r.Slice)
		if err != nil {
			return err
		}
		r.slices[v] = append(r.slices[v], slice)
	}
	return nil
}

// slice runs a variant on all connections for that long, then one transaction on each
// that rolls back, and looks whether the tables have what was committed.
func (r *emitRun) slice(ctx context.Context, v *emitVariant, length time.Duration) (s emitSlice, err error) {
	if err := r.bed.prepare(ctx, v.mode); err != nil {
		return s, fmt.Errorf("prepare %s: %w", v.name, err)
	}
	began := time.Now()
	s.committed, err = r.onAll(ctx, v, func() bool { return time.Since(began) < length })
	if err != nil {
		return s, fmt.Errorf("%s: %w", v.name, err)
	}
	s.perSecond = float64(s.committed) / time.Since(began).Seconds()
	if err := r.rollBacks(ctx, v); err != nil {
		return s, fmt.Errorf("%s: %w", v.name, err)
	}
	count, err := r.bed.count(ctx)
	if err != nil {
		return s, fmt.Errorf("count the rows of %s: %w", v.name, err)
	}
	if err := r.judge(v, s.committed, count); err != nil {
		return s, err
	}
	return s, r.bed.clear(ctx)
}

// onAll runs transactions on all connections, at least one on each, as long as more
// reports true, and returns how many were committed.
func (r *emitRun) onAll(ctx context.Context, v *emitVariant, more func() bool) (int, error) {
	var running sync.WaitGroup
	committed, errs := make([]int, r.Connections), make([]error, r.Connections)
	for row := range r.Connections {
		running.Go(func() {
			n := 0
			for ctx.Err() == nil && (n == 0 || more()) {
				if errs[row] = v.run(ctx, emitTx{row: row, id: r.nextID.Add(1)}); errs[row] != nil {
					break
				}
				n++
			}
			committed[row] = n
		})
	}
	running.Wait()
	total := 0
	for _, n := range committed {
		total += n
	}
	if err := context.Cause(ctx); err != nil {
		return total, err
	}
	return total, errors.Join(errs...)
}

func (r *emitRun) rollBacks(ctx context.Context, v *emitVariant) error {
	for row := range r.Connections {
		err := v.run(ctx, emitTx{row: row, id: r.nextID.Add(1), rollBack: true})
		if !errors.Is(err, errEmitRollBack) {
			return fmt.Errorf("a transaction that was to roll back: %w", errors.Join(err, context.Cause(ctx)))
		}
		r.rolledBk++
	}
	return nil
}

// judge compares what was committed with what is in the tables.
func (r *emitRun) judge(v *emitVariant, committed int, c emitCount) error {
	if c.orders != committed {
		return fmt.Errorf("%s: %d transactions were committed, and the table has %d rows of them: the database did not keep its own promise", v.name, committed, c.orders)
	}
	messages := 0
	if v.emits() {
		messages = committed
	}
	r.committed += committed
	r.lost += max(0, messages-c.messages)
	r.phantom += max(0, c.messages-messages)
	if c.messages == messages && v.emits() {
		r.lost += c.alone / 2
		r.phantom += c.alone / 2
	}
	return nil
}
