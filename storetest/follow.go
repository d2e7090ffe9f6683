package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func followCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Follow/LateCommit", run: followLate[Tx], unless: singleWriter[Tx]},
		{name: "Follow/TogetherByPosition", run: followTogether[Tx], unless: singleWriter[Tx]},
		{name: "Follow/CommitBetweenPages", run: followBetweenPages[Tx], unless: singleWriter[Tx]},
		{name: "Follow/RollbackBetween", run: followRollback[Tx]},
		{name: "Follow/ExactlyOnce", run: followExactlyOnce[Tx]},
		{name: "Follow/ExactlyOnceWhileSettled", run: followSettling[Tx]},
	}
}

func followLate[Tx any](e *env[Tx]) {
	late := e.begin()
	e.emitIn(late, outbox.Event{Topic: "late"})
	e.emit(outbox.Event{Topic: "early"})
	rows, cursor := e.readAll(e.from(store.Cursor{}))
	e.wantTopics(rows, "early")
	e.commit(late)
	rows, cursor = e.readAll(e.from(cursor))
	e.wantTopics(rows, "late")
	rows, _ = e.readAll(e.from(cursor))
	e.wantTopics(rows)
	e.wantPending("late", "early")
}

// followTogether: transactions that became visible between two reads are read in
// the order of positions, not of their commits.
func followTogether[Tx any](e *env[Tx]) {
	_, cursor := e.readAll(e.from(store.Cursor{}))
	first, second := e.begin(), e.begin()
	e.emitIn(first, outbox.Event{Topic: "t.0"})
	e.emitIn(second, outbox.Event{Topic: "t.1"})
	e.emitIn(first, outbox.Event{Topic: "t.2"})
	e.emitIn(second, outbox.Event{Topic: "t.3"})
	e.commit(second)
	e.commit(first)
	r := e.from(cursor)
	r.Limit = 3
	rows, _ := e.readAll(r)
	e.wantTopics(rows, "t.0", "t.1", "t.2", "t.3")
}

// followBetweenPages: transactions commit while what was visible before is being
// paged, with positions before, within and behind the pages.
func followBetweenPages[Tx any](e *env[Tx]) {
	var open []Tx
	begin := func(name string) {
		tx := e.begin()
		e.emitIn(tx, outbox.Event{Topic: name})
		open = append(open, tx)
	}
	begin("late.0")
	e.emit(numbered(5)...)
	begin("late.1")
	e.emit(numbered(5)...)
	begin("late.2")

	counts := map[string]int{}
	r := e.from(store.Cursor{})
	r.Limit = 4
	for i, more := 0, true; more || len(open) > 0; i++ {
		page := e.read(r)[0]
		for _, row := range page.Rows {
			counts[row.ID]++
		}
		r.Cursor, more = page.Cursor, page.More
		if len(open) > 0 {
			e.commit(open[0])
			open, more = open[1:], true
		}
		if i > 100 {
			e.t.Fatal("the pages do not come to an end")
		}
	}
	e.wantOnce(counts, e.pending())
}

// wantOnce fails the test unless counts has each of rows once and nothing else.
func (e *env[Tx]) wantOnce(counts map[string]int, rows []store.Row) {
	e.t.Helper()
	for _, row := range rows {
		if n := counts[row.ID]; n != 1 {
			e.t.Fatalf("%s at position %d was read %d times, want once", row.Topic, row.Position, n)
		}
	}
	if len(counts) != len(rows) {
		e.t.Fatalf("%d messages were read, want %d", len(counts), len(rows))
	}
}

func followRollback[Tx any](e *env[Tx]) {
	e.emit(outbox.Event{Topic: "a"})
	tx := e.begin()
	e.emitIn(tx, numbered(3)...)
	rows, cursor := e.readAll(e.from(store.Cursor{}))
	e.wantTopics(rows, "a")
	e.rollback(tx)
	e.emit(outbox.Event{Topic: "b"})
	rows, _ = e.readAll(e.from(cursor))
	e.wantTopics(rows, "b")
}

// traffic is what concurrent writers did.
type traffic struct {
	mu        sync.Mutex
	committed map[string]bool // message ids
	errs      []error
	done      chan struct{}
}

const trafficTransactions = 60

// startTraffic lets writers commit, late and in any order, roll back, and roll
// back to savepoints. Each writes messages of a key of its own, numbered in their
// types, and messages without a key.
func (e *env[Tx]) startTraffic() *traffic {
	tr := &traffic{committed: map[string]bool{}, done: make(chan struct{})}
	var writers sync.WaitGroup
	count := 8
	if e.Features.SingleWriter {
		count = 4 // more would only wait
	}
	for w := range count {
		writers.Go(func() {
			number := 0
			for i := range trafficTransactions {
				ids, err := e.trafficTx(w, i, &number)
				tr.mu.Lock()
				for _, id := range ids {
					tr.committed[id] = true
				}
				if err != nil {
					tr.errs = append(tr.errs, err)
				}
				tr.mu.Unlock()
			}
		})
	}
	go func() {
		defer close(tr.done)
		writers.Wait()
	}()
	return tr
}

// trafficTx runs one transaction and returns the ids that it committed.
func (e *env[Tx]) trafficTx(writer, i int, number *int) ([]string, error) {
	tx, err := e.Begin(e.ctx)
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	var ids []string
	emit := func(tx Tx, topic string) {
		var msgs []outbox.Message
		for n := range 1 + rand.IntN(3) {
			event := outbox.Event{Topic: topic}
			if n != 1 {
				*number++
				event.Key, event.Type = fmt.Sprintf("writer-%d", writer), strconv.Itoa(*number)
			}
			made, prepareErr := e.ob.Prepare(e.ctx, event)
			msgs, err = append(msgs, made...), errors.Join(err, prepareErr)
		}
		err = errors.Join(err, e.Store.Insert(e.ctx, tx, msgs))
		for _, m := range msgs {
			ids = append(ids, m.ID)
		}
	}
	emit(tx, "first")
	if i%4 == 1 && e.Savepoint != nil {
		before := len(ids)
		undo := errors.New("undo")
		if got := e.Savepoint(e.ctx, tx, func(tx Tx) error { emit(tx, "undone"); return undo }); !errors.Is(got, undo) {
			err = errors.Join(err, got)
		}
		ids = ids[:before]
	}
	time.Sleep(time.Duration(rand.IntN(2_000)) * time.Microsecond) // commits must come in any order
	if i%3 == 1 {
		emit(tx, "second")
	}
	if i%7 == 6 || err != nil {
		return nil, errors.Join(err, e.Rollback(e.ctx, tx))
	}
	return ids, e.Commit(e.ctx, tx)
}

// reader follows the outbox and keeps account.
type reader[Tx any] struct {
	e      *env[Tx]
	name   string
	counts map[string]int
	last   map[string]int // the last number of each writer's key
	fault  string
}

func newReader[Tx any](e *env[Tx], name string) *reader[Tx] {
	return &reader[Tx]{e: e, name: name, counts: map[string]int{}, last: map[string]int{}}
}

// take notes the rows of a page.
func (r *reader[Tx]) take(rows []store.Row) {
	for i := range rows {
		row := &rows[i]
		r.counts[row.ID]++
		if r.counts[row.ID] > 1 {
			r.fault = fmt.Sprintf("position %d was read twice", row.Position)
		}
		if row.Key == "" {
			continue
		}
		n, _ := strconv.Atoi(row.Type)
		if n <= r.last[row.Key] {
			r.fault = fmt.Sprintf("message %d of key %s was read after %d", n, row.Key, r.last[row.Key])
		}
		r.last[row.Key] = n
	}
}

// follow calls step until it finds nothing more after the writers have ended.
func (r *reader[Tx]) follow(tr *traffic, step func() (more bool, err error)) error {
	for ended := false; ; {
		select {
		case <-tr.done:
			ended = true
		default:
			time.Sleep(time.Millisecond)
		}
		for {
			more, err := step()
			if err != nil || r.fault != "" {
				return err
			}
			if !more {
				break
			}
		}
		if ended {
			return nil
		}
	}
}

// check fails the test unless r read what was committed, each once.
func (r *reader[Tx]) check(tr *traffic) {
	t := r.e.t
	t.Helper()
	if r.fault != "" {
		t.Fatalf("%s: %s", r.name, r.fault)
	}
	missed, foreign := 0, 0
	for id := range tr.committed {
		if r.counts[id] == 0 {
			missed++
		}
	}
	for id := range r.counts {
		if !tr.committed[id] {
			foreign++
		}
	}
	if missed+foreign > 0 {
		t.Fatalf("%s: of %d committed messages %d were missed, and %d were read that were rolled back", r.name, len(tr.committed), missed, foreign)
	}
}

// followExactlyOnce has three readers: one cursor for all; two cursors that meet
// and part, on an instance of its own; and a key held back beside the others.
func followExactlyOnce[Tx any](e *env[Tx]) {
	second := *e
	second.Store = e.Open(e.t)
	tr := e.startTraffic()
	whole, parted, held := newReader(e, "one cursor"), newReader(&second, "two cursors"), newReader(e, "a key of its own")
	errs := make([]error, 3)
	var readers sync.WaitGroup
	readers.Go(func() { errs[0] = whole.follow(tr, whole.stepWhole()) })
	readers.Go(func() { errs[1] = parted.follow(tr, parted.stepParted()) })
	readers.Go(func() { errs[2] = held.follow(tr, held.stepHeld()) })
	readers.Wait()
	<-tr.done
	e.ok(errors.Join(errs...), "read")
	e.ok(errors.Join(tr.errs...), "write")
	for _, r := range []*reader[Tx]{whole, parted, held} {
		r.check(tr)
	}
}

func (r *reader[Tx]) stepWhole() func() (bool, error) {
	request := r.e.from(store.Cursor{})
	return func() (bool, error) { return r.step(&request) }
}

// step reads a page of each request in one call.
func (r *reader[Tx]) step(requests ...*store.ReadRequest) (more bool, err error) {
	asked := make([]store.ReadRequest, len(requests))
	for i, request := range requests {
		request.Limit = 1 + rand.IntN(40)
		request.MaxBytes = 200 + rand.IntN(20_000)
		asked[i] = *request
	}
	pages, err := r.e.Store.Read(r.e.ctx, asked...)
	if err != nil {
		return false, err
	}
	for i := range pages {
		r.take(pages[i].Rows)
		requests[i].Cursor = pages[i].Cursor
		more = more || pages[i].More
	}
	return more, nil
}

// stepParted reads the even and the odd shards apart, until the cursors meet, and
// then together for a while.
func (r *reader[Tx]) stepParted() func() (bool, error) {
	e := r.e
	const odd = store.ShardSet(0xAAAAAAAAAAAAAAAA)
	both, a, b := e.from(store.Cursor{}), e.from(store.Cursor{}), e.from(store.Cursor{})
	a.Shards, b.Shards = e.all()&odd, e.all().Without(odd)
	if a.Shards == 0 { // one shard: the parts are no messages and all
		a.Shards, a.Only = b.Shards, &store.Key{Key: "nobody's"}
	}
	steps, together := 0, true
	return func() (bool, error) {
		steps++
		if !together {
			return r.stepApart(&together, &both, &a, &b)
		}
		more, err := r.step(&both)
		if steps%3 == 0 {
			together, a.Cursor, b.Cursor = false, both.Cursor, both.Cursor
		}
		return more, err
	}
}

func (r *reader[Tx]) stepApart(together *bool, both, a, b *store.ReadRequest) (bool, error) {
	more, err := r.step(a, b)
	if err == nil && !more {
		if a.Cursor != b.Cursor {
			r.fault = fmt.Sprintf("without more, the cursors are %+v and %+v", a.Cursor, b.Cursor)
		}
		*together, both.Cursor = true, a.Cursor
	}
	return more, err
}

// stepHeld reads one key apart from all others.
func (r *reader[Tx]) stepHeld() func() (bool, error) {
	only, except := r.e.from(store.Cursor{}), r.e.from(store.Cursor{})
	key := store.Key{Key: "writer-3"}
	only.Only, except.Except = &key, []store.Key{key}
	return func() (bool, error) { return r.step(&only, &except) }
}

// followSettling removes what was read while the writers go on.
func followSettling[Tx any](e *env[Tx]) {
	tr := e.startTraffic()
	r := newReader(e, "a settling reader")
	request := e.from(store.Cursor{})
	err := r.follow(tr, func() (bool, error) {
		request.Limit = 1 + rand.IntN(40)
		pages, err := e.Store.Read(e.ctx, request)
		if err != nil {
			return false, err
		}
		r.take(pages[0].Rows)
		request.Cursor = pages[0].Cursor
		return pages[0].More, e.Store.Settle(e.ctx, refsOf(pages[0].Rows), false)
	})
	<-tr.done
	e.ok(err, "read and settle")
	e.ok(errors.Join(tr.errs...), "write")
	r.check(tr)
	e.wantPending()
}
