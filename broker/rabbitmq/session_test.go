package rabbitmq

import (
	"errors"
	"fmt"
	"testing"

	"github.com/outbox-go/outbox"
	amqp "github.com/rabbitmq/amqp091-go"
)

// lab is a session without a connection: the test plays the broker.
type lab struct {
	*Publisher
	s       *session
	answers map[string][]error
}

func newLab(ids ...string) *lab {
	l := &lab{
		Publisher: &Publisher{wake: make(chan struct{}, 1)},
		s: &session{
			window:  newWindow(),
			returns: make(chan amqp.Return, maxUnanswered),
			failed:  make(chan error, 1),
		},
		answers: map[string][]error{},
	}
	l.session = l.s
	for _, id := range ids {
		l.s.window.add(id, func(err error) { l.answers[id] = append(l.answers[id], err) })
	}
	return l
}

// hear plays the broker's answer to one message, and returns what the session ends
// with, if it does.
func (l *lab) hear(tag uint64, ack bool) error { return l.hearAll(tag, false, ack) }

func (l *lab) hearAll(tag uint64, multiple, ack bool) error {
	l.answered(l.s, tag, multiple, ack)
	(&answers{l.Publisher, l.s}).rest()
	select {
	case err := <-l.s.failed:
		return err
	default:
		return nil
	}
}

// The library hands over a return before the confirm of its message, by another
// channel: whoever reads the confirm first takes the message for routed.
func TestReturnIsSeenBeforeItsConfirm(t *testing.T) {
	t.Parallel()
	l := newLab("a", "b", "c", "d")
	l.s.returns <- amqp.Return{MessageId: "b", ReplyCode: amqp.NoRoute, ReplyText: "NO_ROUTE"}
	l.s.returns <- amqp.Return{MessageId: "d", ReplyCode: amqp.NoRoute, ReplyText: "NO_ROUTE"}
	if err := l.hearAll(2, true, true); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(l.answers["a"]) != "[<nil>]" || len(l.answers["b"]) != 1 || l.answers["c"] != nil || l.answers["d"] != nil {
		t.Fatalf("answers are %v, want those of a and b", l.answers)
	}
	wantErr(t, l.answers["b"][0], outbox.ErrRefused)
	if err := l.hear(3, false); err != nil {
		t.Fatal(err)
	}
	wantErr(t, l.answers["c"][0], outbox.ErrRefused, "basic.nack")
	if err := l.hear(4, true); err != nil {
		t.Fatal(err)
	}
	wantErr(t, l.answers["d"][0], outbox.ErrRefused, "unroutable")
}

// The library waits 5 s for room for a return, and then drops it.
func TestThereIsRoomForAReturn(t *testing.T) {
	t.Parallel()
	l := newLab("a", "b")
	l.s.returns <- amqp.Return{MessageId: "a", ReplyCode: amqp.NoRoute, ReplyText: "NO_ROUTE"}
	next := frame{frameMethod, 1, []byte{0, 60, 0, 50}}
	if (&answers{l.Publisher, l.s}).take(next) || len(l.s.returns) != 0 {
		t.Error("the library cannot pass on the next return")
	}
	if err := l.hearAll(2, true, true); err != nil {
		t.Fatal(err)
	}
	wantErr(t, l.answers["a"][0], outbox.ErrRefused)
	l.s.over = true
	l.s.returns <- amqp.Return{MessageId: "x"}
	if (&answers{l.Publisher, l.s}).take(next); len(l.s.returns) != 0 || len(l.s.failed) != 0 {
		t.Error("at the session's end returns are not taken, or are a failure")
	}
}

func TestConfirmsThatMakeNoSenseEndTheSession(t *testing.T) {
	t.Parallel()
	l := newLab("a", "b")
	if err := l.hear(3, true); !errors.Is(err, errUnknownConfirm) {
		t.Errorf("confirm of what was not published: %v", err)
	}
	if l.ready("c") {
		t.Error("the session goes on")
	}
	if err := l.hear(1, true); err != nil || len(l.answers) != 0 {
		t.Errorf("after its end: %v, %v", err, l.answers)
	}
	l = newLab("a", "b")
	l.s.returns <- amqp.Return{MessageId: "x"}
	if err := l.hear(1, true); !errors.Is(err, errUnknownReturn) {
		t.Errorf("return of an unknown message: %v", err)
	}
	if len(l.answers) != 0 {
		t.Errorf("answers are %v, want none", l.answers)
	}
	if err := newLab().hear(9, true); err == nil {
		t.Error("a confirm of nothing was taken")
	}
}

// With several queues the broker confirms in any order.
func TestConfirmsComeInAnyOrder(t *testing.T) {
	t.Parallel()
	l := newLab("a", "b", "c", "d")
	for i, step := range []struct {
		tag           uint64
		multiple, ack bool
		want          string
	}{
		{3, false, true, "map[c:[<nil>]]"},
		{2, true, true, "map[a:[<nil>] b:[<nil>] c:[<nil>]]"},
		{3, true, false, "map[a:[<nil>] b:[<nil>] c:[<nil>]]"}, // said before
		{0, true, true, "map[a:[<nil>] b:[<nil>] c:[<nil>] d:[<nil>]]"},
	} {
		if err := l.hearAll(step.tag, step.multiple, step.ack); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(l.answers); got != step.want {
			t.Fatalf("after step %d the answers are %s, want %s", i, got, step.want)
		}
	}
	if l.s.window.len() != 0 || l.s.window.head != l.s.window.next {
		t.Error("the window is not empty")
	}
}

// Behind the confirmation that the channel is closed, which the library sends when it
// gets the frame, no message may follow.
func TestNothingIsPublishedOnAClosedChannel(t *testing.T) {
	t.Parallel()
	l := newLab("a")
	l.writing.Lock() // a Publish is under way
	written := false
	go func() {
		written = true
		l.writing.Unlock()
	}()
	l.s.route.channel = 1
	closing := frame{frameMethod, 1, []byte{0, 20, 0, 40}}
	other := closing
	other.channel = 2
	if (&answers{l.Publisher, l.s}).take(other) || l.s.over {
		t.Error("the end of another channel is taken for that of the session's")
	}
	if (&answers{l.Publisher, l.s}).take(closing) {
		t.Error("the library does not get the frame")
	}
	if !written {
		t.Error("the library gets the frame before the message is written")
	}
	if l.ready("b") {
		t.Error("another message is let in")
	}
}

func TestGiveUpFindsTheCulprit(t *testing.T) {
	t.Parallel()
	exception := &amqp.Error{Code: amqp.PreconditionFailed, Server: true, Reason: "invalid expiration"}
	l := newLab("a", "b")
	tell(l.giveUp(l.s, exception, true, exception))
	for _, id := range []string{"a", "b"} {
		wantErr(t, l.answers[id][0], outbox.ErrUnavailable)
		wantErr(t, l.answers[id][0], ErrReplay)
	}
	if !l.suspects.any() {
		t.Fatal("nobody is suspected")
	}
	// One at a time.
	l.s.window, l.s.over = newWindow(), false
	if !l.ready("a") {
		t.Error("the first message is not let in")
	}
	l.s.window.add("a", func(err error) { l.answers["a"] = append(l.answers["a"], err) })
	if l.ready("b") {
		t.Error("a second message is let in")
	}
	tell(l.giveUp(l.s, exception, true, exception))
	wantErr(t, l.answers["a"][1], outbox.ErrRefused, "invalid expiration")
	// A lost connection says nothing about b.
	l.s.window.add("b", func(err error) { l.answers["b"] = append(l.answers["b"], err) })
	tell(l.giveUp(l.s, errLost, false, nil))
	wantErr(t, l.answers["b"][1], outbox.ErrUnavailable, "lost")
	if !l.suspects.any() {
		t.Fatal("b is not suspected any more")
	}
	l.s.over = false
	l.s.window.add("b", func(error) {})
	if err := l.hear(3, true); err != nil {
		t.Fatal(err)
	}
	if l.suspects.any() {
		t.Error("b is still suspected")
	}
}

// Suspects that never come back, because another relay has them, must not slow the
// publisher down for ever.
func TestSuspicionEnds(t *testing.T) {
	t.Parallel()
	var s suspects
	s.add("a")
	s.add("b")
	for i := range 8 {
		if !s.any() {
			t.Fatalf("ended after %d answers", i)
		}
		s.answered(fmt.Sprint("other", i))
	}
	if s.any() {
		t.Error("there are still suspects")
	}
}

func TestBlames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  amqp.Error
		want bool
	}{
		{amqp.Error{Code: amqp.PreconditionFailed, Server: true}, true},
		{amqp.Error{Code: amqp.FrameError, Server: true}, true},
		{amqp.Error{Code: amqp.FrameError}, false}, // ours: the connection broke
		{amqp.Error{Code: amqp.NotFound, Server: true}, false},
		{amqp.Error{Code: amqp.ConnectionForced, Server: true}, false},
		{amqp.Error{Code: amqp.AccessRefused, Server: true, Reason: "access to exchange 'outbox' refused"}, false},
		{amqp.Error{Code: amqp.AccessRefused, Server: true, Reason: "access to topic 'a' in exchange 'outbox' refused"}, true},
	} {
		if got := blames(&c.err); got != c.want {
			t.Errorf("blames(%v) is %v", &c.err, got)
		}
	}
}

func TestWindowWrapsAround(t *testing.T) {
	t.Parallel()
	w := newWindow()
	next, answered := 0, 0
	for round := range 3 {
		for w.admits(fmt.Sprint(next)) {
			w.add(fmt.Sprint(next), nil)
			next++
		}
		if w.len() != maxUnanswered {
			t.Fatalf("round %d: the window is full with %d", round, w.len())
		}
		for range maxUnanswered - round {
			if m, _ := w.take(w.head); m.id != fmt.Sprint(answered) {
				t.Fatalf("took %s, want %d", m.id, answered)
			}
			answered++
		}
	}
	if len(w.tags) != w.len() {
		t.Errorf("%d ids are known of %d messages", len(w.tags), w.len())
	}
}
