package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func wakeCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Wake/AfterInTx", run: wakeAfterInTx[Tx], unless: pollsOnly[Tx]},
		{name: "Wake/AfterWake", run: wakeAfterWake[Tx], unless: pollsOnly[Tx]},
		{name: "Wake/OtherInstance", run: wakeOther[Tx], unless: notifiesNoOther[Tx]},
		{name: "Wake/TwoListeners", run: wakeTwo[Tx], unless: pollsOnly[Tx]},
		{name: "Wake/ArmedTellsOfPlainCommits", run: wakeArmed[Tx], unless: noArmer[Tx]},
		{name: "Wake/ListenEndsWithContext", run: listenEnds[Tx]},
		{name: "Wake/WithoutListeners", run: wakeNobody[Tx]},
	}
}

func pollsOnly[Tx any](h *Harness[Tx]) string {
	if h.Features.Notifies == NotifiesNone {
		return "no notifications"
	}
	return ""
}

func notifiesNoOther[Tx any](h *Harness[Tx]) string {
	if h.Features.Notifies != NotifiesAll {
		return "no notifications to other instances"
	}
	return ""
}

func noArmer[Tx any](h *Harness[Tx]) string {
	if _, ok := any(h.Store).(armer); !ok {
		return "nothing to arm"
	}
	return ""
}

// soon is less than the time after which a listener that was not told looks by
// itself.
const soon = 8 * time.Second

// ear is a listener and what it heard.
type ear struct {
	heard chan struct{}
}

// listen starts a listener on s that ends with the test.
func (e *env[Tx]) listen(s Drained) *ear {
	e.t.Helper()
	l := &ear{heard: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(e.ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- s.Listen(ctx, func() {
			select {
			case l.heard <- struct{}{}:
			default:
			}
		})
	}()
	e.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			e.t.Errorf("listen: %v", err)
		}
	})
	return l
}

// wantHeard does what must wake l until it has, since nobody is told when a
// listener is ready; then, when all is quiet, once more, which must suffice.
func (e *env[Tx]) wantHeard(l *ear, do func()) {
	e.t.Helper()
	e.eventually("the listener is told at all", func() bool {
		do()
		return l.hears(100 * time.Millisecond)
	})
	for i := 0; i < 20 && l.hears(150*time.Millisecond); i++ {
	}
	do()
	if !l.hears(soon) {
		e.t.Fatalf("the listener was not told within %v", soon)
	}
}

func (l *ear) hears(within time.Duration) bool {
	select {
	case <-l.heard:
		return true
	case <-time.After(within):
		return false
	}
}

func (e *env[Tx]) emitInTx() {
	e.t.Helper()
	e.ok(e.ob.InTx(e.ctx, func(tx Tx) error {
		return e.ob.Emit(e.ctx, tx, outbox.Event{Topic: "a"})
	}), "in tx")
}

func wakeAfterInTx[Tx any](e *env[Tx]) {
	e.wantHeard(e.listen(e.Store), e.emitInTx)
}

func wakeAfterWake[Tx any](e *env[Tx]) {
	e.wantHeard(e.listen(e.Store), func() {
		e.emit(outbox.Event{Topic: "a"})
		e.ob.Wake()
	})
}

func wakeOther[Tx any](e *env[Tx]) {
	e.wantHeard(e.listen(e.Open(e.t)), e.emitInTx)
}

func wakeTwo[Tx any](e *env[Tx]) {
	a, b := e.listen(e.Store), e.listen(e.Store)
	e.wantHeard(a, e.emitInTx)
	e.wantHeard(b, e.emitInTx)
}

// wakeArmed: while a relay is armed, commits that nobody sees are told of too.
func wakeArmed[Tx any](e *env[Tx]) {
	arm := any(e.Store).(armer).Arm
	e.claim(store.ClaimRequest{Owner: "first"})
	plain := func() { e.emit(outbox.Event{Topic: "a"}) }
	other := e.listen(e.Open(e.t))
	e.wantHeard(other, plain) // armed is the state it starts in
	for _, armed := range []bool{false, true} {
		next, err := arm(e.ctx, "first", armed)
		e.ok(err, "arm")
		if next == 0 {
			e.t.Fatal("arm returned no snapshot")
		}
	}
	e.wantHeard(other, plain)
}

func listenEnds[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	ended := make(chan error, 1)
	go func() { ended <- e.Store.Listen(ctx, func() {}) }()
	if e.Features.Notifies == NotifiesNone {
		if err := <-ended; !errors.Is(err, store.ErrPollOnly) {
			e.t.Fatalf("listen returned %v, want ErrPollOnly", err)
		}
		cancel()
		return
	}
	select {
	case err := <-ended:
		e.t.Fatalf("listen ended by itself: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	cancel()
	select {
	case err := <-ended:
		e.ok(err, "listen")
	case <-time.After(patience):
		e.t.Fatal("listen does not end with its context")
	}
}

func wakeNobody[Tx any](e *env[Tx]) {
	for range 1000 {
		e.ob.Wake()
	}
	e.emitInTx()
	e.wantPending("a")
}
