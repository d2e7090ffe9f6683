package outboxtest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/outbox-go/outbox"
)

// Recorder is an [outbox.Store] that records the messages emitted through it, and
// by which transaction. It is safe for concurrent use; make it with [NewRecorder]
// or [Record].
//
// What a transaction of [Recorder.InTx] emitted is forgotten when it is rolled
// back. A transaction that the code under test begins and ends by itself is not
// seen ending: its messages count as emitted, unless [Recorder.Forget] is called.
type Recorder[Tx comparable] struct {
	store outbox.Store[Tx] // nil if there is none
	begin func() (Tx, error)

	mu      sync.Mutex
	entries []entry[Tx] // in the order of their emits
	failure error

	inbox   sync.Mutex // held while a transaction of Once runs
	handled map[handled]bool
}

// entry is a message and the transaction that emitted it.
type entry[Tx comparable] struct {
	tx        Tx
	committed bool // by InTx
	message   outbox.Message
}

// NewRecorder returns a recorder without a database, for code that takes an
// *outbox.Outbox[Tx] and does no more with a Tx than to hand it to Emit; a Tx
// can be any value that Emit takes and that differs from those of other
// transactions.
//
// begin makes the transactions of InTx, a new one each time. It may be nil if Tx
// is a pointer type: then they are new zero values, which as an *sql.Tx can be
// emitted with but not queried. For an interface such as pgx.Tx, pass what returns
// a fake: a pointer to a struct that embeds the interface will do.
func NewRecorder[Tx comparable](begin func() Tx) *Recorder[Tx] {
	if begin == nil {
		return &Recorder[Tx]{begin: zeroTx[Tx]}
	}
	return &Recorder[Tx]{begin: func() (Tx, error) { return begin(), nil }}
}

// Record returns a recorder that passes on to store, which may not be nil, what it
// records: messages that the store refused are not recorded. A savepoint is a
// transaction of its own where the database's package has another value for it,
// as pgx has.
func Record[Tx comparable](store outbox.Store[Tx]) *Recorder[Tx] {
	return &Recorder[Tx]{store: store}
}

// zeroTx returns a pointer to a new zero value.
func zeroTx[Tx any]() (tx Tx, err error) {
	t := reflect.TypeFor[Tx]()
	if t.Kind() != reflect.Pointer {
		return tx, fmt.Errorf("outboxtest: InTx cannot make a %s: pass NewRecorder a function that does", t)
	}
	return reflect.New(t.Elem()).Interface().(Tx), nil
}

// Insert records copies of msgs. It is what Emit calls.
func (r *Recorder[Tx]) Insert(ctx context.Context, tx Tx, msgs []outbox.Message) error {
	if err := r.fault(); err != nil {
		return err
	}
	if r.store != nil {
		if err := r.store.Insert(ctx, tx, msgs); err != nil {
			return err
		}
	} else if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range msgs {
		r.entries = append(r.entries, entry[Tx]{tx: tx, message: clone(&msgs[i])})
	}
	return nil
}

// InTx runs fn in a transaction of the store's or, without a store, in one that is
// committed when fn returns nil and ctx has not ended. When it is rolled back, by
// a panic too, what fn emitted is forgotten; also what each attempt emitted but
// the last one, where the store makes several.
func (r *Recorder[Tx]) InTx(ctx context.Context, fn func(tx Tx) error) error {
	return r.follow(func(begun func(Tx)) error {
		return r.inTx(ctx, func(tx Tx) error {
			begun(tx)
			return fn(tx)
		})
	})
}

// follow runs run, which calls begun with each transaction that it begins and
// returns nil if it has committed the last one.
func (r *Recorder[Tx]) follow(run func(begun func(Tx)) error) error {
	var a attempt[Tx]
	defer a.end(r)
	err := run(func(tx Tx) {
		a.end(r)
		a = attempt[Tx]{tx: tx, running: true}
	})
	a.committed = err == nil
	return err
}

// inTx is InTx without the records.
func (r *Recorder[Tx]) inTx(ctx context.Context, fn func(tx Tx) error) error {
	if r.store != nil {
		return r.store.InTx(ctx, fn)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := r.begin()
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	return ctx.Err()
}

// attempt is one run of a function in a transaction.
type attempt[Tx comparable] struct {
	tx                 Tx
	running, committed bool
}

// end keeps what the attempt emitted if it was committed, and forgets it if not.
func (a *attempt[Tx]) end(r *Recorder[Tx]) {
	switch {
	case a.running && a.committed:
		r.commit(a.tx)
	case a.running:
		r.Forget(a.tx)
	}
	a.running = false
}

// commit keeps what tx emitted from being forgotten with a later transaction of an
// equal value.
func (r *Recorder[Tx]) commit(tx Tx) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.entries {
		if e := &r.entries[i]; e.tx == tx {
			e.committed = true
		}
	}
}

// Forget drops what was emitted in tx, for tests whose code rolls it back itself.
// What InTx has committed stays.
func (r *Recorder[Tx]) Forget(tx Tx) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = slices.DeleteFunc(r.entries, func(e entry[Tx]) bool { return e.tx == tx && !e.committed })
}

// Wake passes on to the store.
func (r *Recorder[Tx]) Wake() {
	if r.store != nil {
		r.store.Wake()
	}
}

// Fail makes each Emit from now on fail with err, which Emit wraps, until it is
// called with nil: to test what the code does then.
func (r *Recorder[Tx]) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failure = err
}

func (r *Recorder[Tx]) fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}

// Emitted returns copies of the messages that were emitted in tx, in the order of
// their emits.
func (r *Recorder[Tx]) Emitted(tx Tx) []outbox.Message {
	return r.list(func(e *entry[Tx]) bool { return e.tx == tx })
}

// All returns copies of the messages that were emitted in any transaction, in the
// order of their emits.
func (r *Recorder[Tx]) All() []outbox.Message {
	return r.list(func(*entry[Tx]) bool { return true })
}

func (r *Recorder[Tx]) list(wanted func(*entry[Tx]) bool) []outbox.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	var msgs []outbox.Message
	for i := range r.entries {
		if e := &r.entries[i]; wanted(e) {
			msgs = append(msgs, clone(&e.message))
		}
	}
	return msgs
}

// clone returns a copy that shares nothing with m.
func clone(m *outbox.Message) outbox.Message {
	c := *m
	c.Headers = maps.Clone(m.Headers)
	c.Payload = slices.Clone(m.Payload)
	return c
}
