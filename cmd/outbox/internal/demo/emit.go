package demo

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	rollBackOneIn = 10
	holdOneIn     = 200
	holdLeast     = 50 * time.Millisecond
	holdMost      = 500 * time.Millisecond
)

// emitters place orders, several at once, until as many as asked for have been
// committed.
type emitters struct {
	shop     shop
	ledger   *ledger
	accounts []string
	left     atomic.Int64
	fail     context.CancelCauseFunc
	running  sync.WaitGroup

	mu   sync.Mutex
	held map[string]bool // accounts whose row is locked for long
}

func newEmitters(s shop, l *ledger, accounts []string, messages int) *emitters {
	e := &emitters{shop: s, ledger: l, accounts: accounts, held: map[string]bool{}}
	e.left.Store(int64(messages))
	return e
}

// run returns when all is committed, or with the reason why not.
func (e *emitters) run(ctx context.Context) error {
	ctx, e.fail = context.WithCancelCause(ctx)
	defer e.fail(nil)
	for range e.shop.concurrency() {
		e.running.Go(func() {
			for e.take() {
				e.commit(ctx, e.next(ctx))
			}
		})
	}
	e.running.Wait()
	return context.Cause(ctx)
}

// take takes one of the orders that remain to be committed.
func (e *emitters) take() bool { return e.left.Add(-1) >= 0 }

// commit places p, and others in its stead as long as that rolls back.
func (e *emitters) commit(ctx context.Context, p *placement) {
	for ctx.Err() == nil {
		err := e.shop.place(ctx, p)
		if p.hold > 0 {
			e.setHeld(p.account, false)
		}
		switch {
		case err == nil:
			return
		case errors.Is(err, errRollBack):
			e.ledger.rollsBack()
			p = e.next(ctx)
		default:
			e.fail(err)
		}
	}
}

// next plans an order: one in ten rolls back, and one in 200 stays open while
// others commit.
func (e *emitters) next(ctx context.Context) *placement {
	p := e.plan(e.account())
	switch {
	case rand.N(rollBackOneIn) == 0:
		p.rollBack = true
	case e.shop.holds() && rand.N(holdOneIn) == 0:
		e.hold(ctx, p)
	}
	return p
}

func (e *emitters) plan(account string) *placement {
	return &placement{
		id: uuid.Must(uuid.NewV7()).String(), account: account, amount: 100 + rand.N(100_000), ledger: e.ledger,
	}
}

// account returns any account, but for those that are held, if there are enough.
func (e *emitters) account() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var account string
	for range 10 {
		if account = e.accounts[rand.N(len(e.accounts))]; !e.held[account] {
			break
		}
	}
	return account
}

// hold plans that p stays open after its emit, and that another order of the same
// account, which waits for the row's lock meanwhile, follows at once.
func (e *emitters) hold(ctx context.Context, p *placement) {
	if !e.take() {
		return
	}
	p.hold = holdLeast + rand.N(holdMost-holdLeast)
	p.emitted = func() {
		e.setHeld(p.account, true)
		e.running.Go(func() { e.commit(ctx, e.plan(p.account)) })
	}
}

func (e *emitters) setHeld(account string, held bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if held {
		e.held[account] = true
	} else {
		delete(e.held, account)
	}
}
