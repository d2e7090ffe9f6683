package pgxstore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/internal/postgres"
)

const (
	// A transaction with more messages, or more bytes of them, is read back as those of
	// others are: there is nothing to gain, and a copy of each is to be kept.
	handRows  = 64
	handBytes = 16 << 10

	// handReturning tells where a message stands, in which transaction, whether outside
	// of any savepoint, and how many statements have inserted messages before.
	handReturning = ` RETURNING position, shard, pg_current_xact_id()::text, xmin = pg_current_xact_id()::xid, current_setting('outbox.wake', true)`
)

// ownTx is a transaction of InTx whose messages go to a relay of this process when it
// is committed, if all of them are known and none can be undone alone.
type ownTx struct {
	commit     store.Commit
	statements int
	bytes      int
	unfit      bool
}

// Follow has take called with what transactions of InTx have committed. See
// relay.Follower.
func (s *Store) Follow(take func(store.Commit) bool) (stop func()) {
	if s.names.Route != "" {
		return func() {} // what is handed over takes no route
	}
	return s.notifier.Follow(take)
}

// inOwnTx is InTx where a relay of this process follows.
func (s *Store) inOwnTx(ctx context.Context, fn func(tx pgx.Tx) error) error {
	own := &ownTx{}
	committing, err := s.inTx(ctx, silent("#0"), func(tx pgx.Tx) error {
		s.own.Store(tx.Conn(), own)
		defer s.own.Delete(tx.Conn())
		err := fn(tx)
		const open = 'T'
		own.unfit = own.unfit || tx.Conn().PgConn().TxStatus() != open // fn has ended it, or it has failed
		return err
	})
	switch {
	case committing.IsZero():
	case err == nil && !own.unfit && len(own.commit.Rows) > 0 && s.notifier.Hand(own.commit):
		s.notifier.WakeLater() // for what else the transaction may have written
	default: // also if the answer to the commit was lost
		s.Wake()
	}
	return err
}

// ownTx returns the transaction of InTx on the connection of tx, nil if there is none.
func (s *Store) ownTx(tx pgx.Tx) *ownTx {
	if s.config.NoHandover || !s.notifier.Followed() {
		return nil
	}
	own, _ := s.own.Load(tx.Conn())
	o, _ := own.(*ownTx)
	return o
}

// insert runs the insert of msgs and notes their rows.
func (o *ownTx) insert(ctx context.Context, tx pgx.Tx, s *Store, sql string, args []any, msgs []outbox.Message) error {
	if !o.fits(msgs) {
		_, err := tx.Exec(ctx, sql, args...)
		return err
	}
	rows, err := tx.Query(ctx, sql+handReturning, args...)
	if err != nil {
		return err
	}
	var keyed bool
	n := 0
	var position int64
	var shard int16
	var mark string
	var top bool
	var before *string
	_, err = pgx.ForEachRow(rows, []any{&position, &shard, &mark, &top, &before}, func() error {
		if n == len(msgs) || !top || before == nil || *before != "#"+strconv.Itoa(o.statements) || o.commit.Mark != "" && o.commit.Mark != mark {
			o.unfit = true
			return nil
		}
		o.commit.Mark = mark
		o.commit.Rows = append(o.commit.Rows, handRow(&msgs[n], position, shard))
		keyed = keyed || msgs[n].Key != ""
		n++
		return nil
	})
	if err != nil {
		return err
	}
	o.statements++
	o.unfit = o.unfit || n < len(msgs)
	o.commit.Written = time.Now()
	if keyed && !o.unfit {
		s.notifier.Tell() // so that what was committed before is read meanwhile
	}
	return nil
}

// fits reports whether msgs can be handed over with those that are there. If not,
// none are.
func (o *ownTx) fits(msgs []outbox.Message) bool {
	for i := range msgs {
		o.bytes += (&store.Row{Message: msgs[i]}).Size()
	}
	if o.unfit || o.bytes > handBytes || len(o.commit.Rows)+len(msgs) > handRows || postgres.Timed(msgs) {
		o.unfit = true
		o.commit = store.Commit{}
	}
	return !o.unfit
}

// handRow returns the row of m as it would be read. The caller may change what m
// points to.
func handRow(m *outbox.Message, position int64, shard int16) store.Row {
	row := store.Row{Message: *m, Shard: uint8(shard)} //nolint:gosec // the column's values are 0 to 63
	row.Position = position
	if id, err := uuid.Parse(m.ID); err == nil {
		row.ID = id.String()
	}
	row.Payload = slices.Clone(postgres.Payload(m))
	row.Headers = maps.Clone(m.Headers)
	if len(row.Headers) == 0 {
		row.Headers = nil
	}
	row.CreatedAt = m.CreatedAt.UTC().Truncate(time.Microsecond)
	return row
}

// Saw tells whether a reader at a cursor sees the transaction of a commit's mark.
func (s *Store) Saw(c store.Cursor, mark string) bool {
	saw, err := postgres.Saw(c, mark)
	if err != nil {
		s.config.Logger.Error("outbox cannot read a cursor of its own", "error", fmt.Errorf("saw %q: %w", mark, err))
	}
	return saw || err != nil
}
