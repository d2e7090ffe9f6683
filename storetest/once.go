package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox/store"
)

func onceCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Once/FirstThenKnown", run: onceKnown[Tx], unless: noInbox[Tx]},
		{name: "Once/ConsumersAreApart", run: onceConsumers[Tx], unless: noInbox[Tx]},
		{name: "Once/OddIDs", run: onceOddIDs[Tx], unless: noInbox[Tx]},
		{name: "Once/RefusedIDs", run: onceRefusedIDs[Tx], unless: noInbox[Tx]},
		{name: "Once/SecondWaitsForACommit", run: onceWaits[Tx](nil), unless: noInbox[Tx]},
		{name: "Once/SecondWaitsForARollback", run: onceWaits[Tx](errFirst), unless: noInbox[Tx]},
		{name: "Once/ManyAtTheSameMoment", run: onceMany[Tx], unless: noInbox[Tx]},
		{name: "Once/TablesMissing", run: onceMissing[Tx], unless: noInboxMigrations[Tx]},
	}
}

var errFirst = errors.New("the first one failed")

func noInbox[Tx any](h *Harness[Tx]) string {
	if h.Features.NoInbox {
		return "no inbox"
	}
	return ""
}

func noInboxMigrations[Tx any](h *Harness[Tx]) string {
	if reason := noInbox(h); reason != "" {
		return reason
	}
	return noMigrations(h)
}

func (e *env[Tx]) inboxOf(s Store[Tx]) Inbox[Tx] {
	e.t.Helper()
	in, ok := s.(Inbox[Tx])
	if !ok {
		e.t.Fatalf("%T is no inbox, and does not declare it", s)
	}
	return in
}

func (e *env[Tx]) inbox() Inbox[Tx] {
	e.t.Helper()
	return e.inboxOf(e.Store)
}

// once handles a message that writes a business row, and reports whether it was the
// first.
func (e *env[Tx]) once(consumer, id string) bool {
	e.t.Helper()
	ran := false
	first, err := e.inbox().Once(e.ctx, consumer, id, func(ctx context.Context, tx Tx) error {
		ran = true
		return e.Insert(ctx, tx, consumer+"/"+id)
	})
	e.ok(err, fmt.Sprintf("once for %q and %q", consumer, id))
	if ran != first {
		e.t.Fatalf("once for %q and %q reports %t, and has run the function: %t", consumer, id, first, ran)
	}
	return first
}

// wantFirst fails the test unless once reports what is wanted.
func (e *env[Tx]) wantFirst(consumer, id string, want bool) {
	e.t.Helper()
	if got := e.once(consumer, id); got != want {
		e.t.Fatalf("once for %q and %q reports %t, want %t", consumer, id, got, want)
	}
}

func (e *env[Tx]) wantBusiness(want int) {
	e.t.Helper()
	if n := e.business(); n != want {
		e.t.Fatalf("%d business rows, want %d", n, want)
	}
}

func onceKnown[Tx any](e *env[Tx]) {
	e.ok(e.inbox().CheckInbox(e.ctx), "check the inbox")
	e.wantFirst("billing", "1", true)
	e.wantBusiness(1)
	for range 3 {
		e.wantFirst("billing", "1", false)
	}
	first, err := e.inboxOf(e.Open(e.t)).Once(e.ctx, "billing", "1", func(context.Context, Tx) error { return errFirst })
	if first || err != nil {
		e.t.Fatalf("the second instance reports %t, %v for a known message", first, err)
	}
	e.wantFirst("billing", "2", true)
	e.wantBusiness(2)
}

func onceConsumers[Tx any](e *env[Tx]) {
	for _, pair := range [][2]string{{"a", "1"}, {"b", "1"}, {"A", "1"}, {"a ", "1"}, {"a", "1 "}, {"ab", "c"}, {"a", "bc"}, {"a/b", "c"}, {"a", "b\nc"}} {
		e.wantFirst(pair[0], pair[1], true)
		e.wantFirst(pair[0], pair[1], false)
	}
}

func onceOddIDs[Tx any](e *env[Tx]) {
	for _, id := range []string{
		"0190a1b2-c3d4-7e5f-8a9b-000000000001", "0190A1B2-C3D4-7E5F-8A9B-000000000001", " ", "'", `"`, `\`, `\\`, `\x00`, "%", "_", "$1", "?", ":a", "{inbox}",
		"'; DROP TABLE inbox; --", "\n", "\x01", "é", "e\u0301", "ß", "ss", "Käse ☃ 𝄞", "\u2028", "NULL", "null",
		strings.Repeat("x", store.MaxMessageID), strings.Repeat("x", store.MaxMessageID-1), strings.Repeat("𝄞", store.MaxMessageID/4),
	} {
		e.wantFirst("Kä'\"\\%", id, true)
		e.wantFirst("Kä'\"\\%", id, false)
	}
	e.wantFirst(strings.Repeat("ü", store.MaxConsumer/2), strings.Repeat("ü", store.MaxMessageID/2), true)
	e.wantFirst(strings.Repeat("ü", store.MaxConsumer/2), strings.Repeat("ü", store.MaxMessageID/2), false)
}

// onceRefusedIDs: what some database could not keep, or would take for another id,
// none takes.
func onceRefusedIDs[Tx any](e *env[Tx]) {
	long := strings.Repeat("x", store.MaxMessageID+1)
	for _, pair := range [][2]string{
		{"billing", ""}, {"", "1"}, {"billing", long}, {long[:store.MaxConsumer+1], "1"}, {"billing", "a\x00b"}, {"a\x00b", "1"},
		{"billing", "\xff"}, {"\xff", "1"},
	} {
		first, err := e.inbox().Once(e.ctx, pair[0], pair[1], func(context.Context, Tx) error {
			e.t.Errorf("the function was run for %q and %q", pair[0], pair[1])
			return nil
		})
		if first || err == nil || e.inbox().Transient(err) {
			e.t.Errorf("once for %q and %q returned %t, %v, want an error that does not pass", pair[0], pair[1], first, err)
		}
	}
}

// onceWaits: while one transaction handles a message, another that is to do the
// same does not, and then knows what became of the first.
func onceWaits[Tx any](result error) func(e *env[Tx]) {
	return func(e *env[Tx]) {
		running, end := make(chan struct{}), make(chan struct{})
		type answer struct {
			first bool
			err   error
		}
		answers := [2]chan answer{make(chan answer, 1), make(chan answer, 1)}
		go func() {
			first, err := e.inbox().Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
				close(running)
				<-end
				return errors.Join(e.Insert(ctx, tx, "first"), result)
			})
			answers[0] <- answer{first, err}
		}()
		<-running
		second := e.inboxOf(e.Open(e.t))
		var ran atomic.Bool
		go func() {
			first, err := second.Once(e.ctx, "billing", "1", func(ctx context.Context, tx Tx) error {
				ran.Store(true)
				return e.Insert(ctx, tx, "second")
			})
			answers[1] <- answer{first, err}
		}()
		select {
		case a := <-answers[1]:
			e.t.Errorf("the second did not wait: %t, %v", a.first, a.err)
			answers[1] <- a
		case <-time.After(100 * time.Millisecond):
		}
		if ran.Load() {
			e.t.Error("both functions run at once")
		}
		close(end)
		if a := <-answers[0]; a.first != (result == nil) || !errors.Is(a.err, result) {
			e.t.Fatalf("the first returned %t, %v", a.first, a.err)
		}
		if a := <-answers[1]; a.first != (result != nil) || a.err != nil {
			e.t.Fatalf("the second returned %t, %v", a.first, a.err)
		}
		e.wantBusiness(1)
		e.wantFirst("billing", "1", false)
	}
}

// onceMany delivers each of many messages to several workers at once. Of every
// third message the first try fails.
func onceMany[Tx any](e *env[Tx]) {
	const messages, workers = 30, 4
	var runs, firsts, failures [messages]atomic.Int32
	stores := []Inbox[Tx]{e.inbox(), e.inboxOf(e.Open(e.t))}
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			for m := range messages {
				first, err := stores[w%2].Once(e.ctx, "billing", fmt.Sprint("m", m), func(ctx context.Context, tx Tx) error {
					n := runs[m].Add(1)
					if err := e.Insert(ctx, tx, fmt.Sprint("m", m)); err != nil {
						return err
					}
					if m%3 == 0 && n == 1 {
						return errFirst
					}
					return nil
				})
				switch {
				case errors.Is(err, errFirst) && !first:
					failures[m].Add(1)
				case err != nil:
					e.t.Errorf("message %d: %v", m, err)
				case first:
					firsts[m].Add(1)
				}
			}
		})
	}
	group.Wait()
	for m := range messages {
		want := [3]int32{1, 1, 0}
		if m%3 == 0 {
			want = [3]int32{1, 2, 1}
		}
		if got := [3]int32{firsts[m].Load(), runs[m].Load(), failures[m].Load()}; got != want {
			e.t.Errorf("message %d was the first, was run and failed %v times, want %v", m, got, want)
		}
	}
	e.wantBusiness(messages)
}

func onceMissing[Tx any](e *env[Tx]) {
	empty, migrate := e.Empty(e.t)
	in := e.inboxOf(empty)
	_, onceErr := in.Once(e.ctx, "billing", "1", func(context.Context, Tx) error {
		e.t.Error("the function was run")
		return nil
	})
	_, purgeErr := in.PurgeInbox(e.ctx, 0, 1)
	_, countErr := in.CountInbox(e.ctx, 0)
	for doing, err := range map[string]error{"once": onceErr, "purge": purgeErr, "count": countErr, "check": in.CheckInbox(e.ctx)} {
		var missing *store.MissingError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), "inbox is missing") || !strings.Contains(err.Error(), "outbox migrate") {
			e.t.Errorf("%s returned %v, want a MissingError that names the table", doing, err)
		}
		if in.Transient(err) {
			e.t.Errorf("%s: a missing table counts as one that passes", doing)
		}
	}
	e.ok(migrate(e.ctx), "migrate")
	first, err := in.Once(e.ctx, "billing", "1", func(context.Context, Tx) error { return nil })
	if !first || err != nil {
		e.t.Fatalf("once after the migration returned %t, %v", first, err)
	}
}
