package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// shop is the business database.
type shop interface {
	// setUp makes the outbox's and the shop's tables, and the accounts.
	setUp(ctx context.Context, accounts []string) error

	// place runs one transaction; see [placeIn].
	place(ctx context.Context, p *placement) error

	// committed reads the orders that are there.
	committed(ctx context.Context) ([]order, error)

	store() wire.Store

	// concurrency is how many transactions to run at once.
	concurrency() int

	// holds reports whether a transaction that stays open leaves others alone.
	holds() bool
}

// openShop opens the database that o names, or an SQLite file.
func openShop(ctx context.Context, o *Options, own *scratch.Scratch) (shop, error) {
	const followers, perRelay = 8, 4
	d, err := own.Database(ctx, o.DatabaseURL, postgresConcurrency+followers+perRelay*o.Relays, o.Logger)
	if err != nil {
		return nil, err
	}
	if d.Postgres != nil {
		return newPostgresShop(d), nil
	}
	return &sqliteShop{outbox: d.SQLite}, nil
}

// payload is what a message tells of its order.
type payload struct {
	Account  string    `json:"account"`
	Number   int64     `json:"number"`
	Amount   int       `json:"amount_cents"`
	Currency string    `json:"currency"`
	PlacedAt time.Time `json:"placed_at"`
}

// topic is where the demo's messages go.
const topic = "demo.order.placed"

// placement is one order to be placed.
type placement struct {
	id       string
	account  string
	amount   int
	rollBack bool

	// hold is how long the transaction stays open after its emit; emitted, if not
	// nil, is called before that.
	hold    time.Duration
	emitted func()

	ledger *ledger
}

// errRollBack makes a transaction roll back as planned.
var errRollBack = errors.New("rolled back on purpose")

// placeIn writes an order, which takes the next number of its account, and its
// message, in one transaction. If so planned it returns errRollBack.
func placeIn[Tx any](ctx context.Context, ob *outbox.Outbox[Tx], p *placement, write func(tx Tx) (n int64, err error)) error {
	p.ledger.emitting(time.Now())
	return ob.InTx(ctx, func(tx Tx) error {
		n, err := write(tx)
		if err != nil {
			return fmt.Errorf("place order: %w", err)
		}
		event := outbox.Event{ID: p.id, Topic: topic, Key: p.account, Type: "OrderPlaced", Payload: payload{
			Account: p.account, Number: n, Amount: p.amount, Currency: "EUR", PlacedAt: time.Now().UTC(),
		}}
		if err := ob.Emit(ctx, tx, event); err != nil {
			return err
		}
		return p.end(ctx)
	})
}

// end does what remains before the commit or the rollback.
func (p *placement) end(ctx context.Context) error {
	if p.emitted != nil {
		p.emitted()
	}
	if p.hold > 0 {
		select {
		case <-time.After(p.hold):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if p.rollBack {
		return errRollBack
	}
	p.ledger.commits(p.id, time.Now())
	return nil
}
