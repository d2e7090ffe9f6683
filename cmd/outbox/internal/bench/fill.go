package bench

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/internal/measure"
)

// fillBatch returns the number of messages of a transaction, whose payloads are bounded
// by bytes, too: they are parameters of one statement.
func fillBatch(payload int) int {
	const most, mostBytes = 1000, 16 << 20
	return max(1, min(most, mostBytes/max(1, payload)))
}

// filling is what was emitted.
type filling struct {
	committed  int
	rolledBack int
}

// fill emits all messages of load, in the order of their numbers, after a tenth of them, at
// most a batch, that is rolled back.
func (f *filling) fill(ctx context.Context, d *scratch.Database, load measure.Load) error {
	most := fillBatch(load.Payload)
	undone := messages(&load, load.Messages, min(most, load.Messages/10))
	if err := rollBack(ctx, d, undone); err != nil {
		return err
	}
	f.rolledBack = len(undone)
	for f.committed < load.Messages {
		batch := messages(&load, f.committed, min(most, load.Messages-f.committed))
		if err := d.Store.Insert(ctx, batch); err != nil {
			return err
		}
		f.committed += len(batch)
	}
	return nil
}

// messages returns n messages from number first on.
func messages(load *measure.Load, first, n int) []outbox.Message {
	list := make([]outbox.Message, n)
	for i := range list {
		list[i] = load.Message(first + i)
	}
	return list
}

var errRollBack = errors.New("rolled back on purpose")

// rollBack emits messages in a transaction that does not commit.
func rollBack(ctx context.Context, d *scratch.Database, list []outbox.Message) error {
	var insertErr, err error
	if d.Postgres != nil {
		err = d.Postgres.InTx(ctx, func(tx pgx.Tx) error {
			insertErr = d.Postgres.Store.Insert(ctx, tx, list)
			return errRollBack
		})
	} else {
		err = d.SQLite.InTx(ctx, func(tx *sql.Tx) error {
			insertErr = d.SQLite.Store.Insert(ctx, tx, list)
			return errRollBack
		})
	}
	if insertErr == nil && errors.Is(err, errRollBack) {
		return nil
	}
	return errors.Join(insertErr, err)
}
