package brokertest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outbox-go/outbox"
)

// window is the number of unanswered messages that tests allow themselves.
const window = 1000

// publisher is a driver's publisher under watch: done must be called once per
// message, and never with an error of no class.
type publisher struct {
	outbox.Publisher
	env  *env
	once sync.Once
}

// answer is what became of one message.
type answer struct {
	message *outbox.Message
	calls   atomic.Int32
	given   chan struct{} // closed with the first answer
	err     error         // valid after given
}

// publisher opens a publisher, closed at the end of the test at the latest.
func (e *env) publisher() *publisher {
	e.Helper()
	p := &publisher{Publisher: e.broker.Publisher(e.T), env: e}
	e.Cleanup(p.close)
	return p
}

func (p *publisher) close() {
	p.once.Do(func() {
		if err := p.Publisher.Close(); err != nil && !p.env.disturbed.Load() {
			p.env.Errorf("Publisher.Close: %v", err)
		}
	})
}

// send publishes m without waiting for the answer.
func (p *publisher) send(ctx context.Context, m *outbox.Message) *answer {
	a := &answer{message: m, given: make(chan struct{})}
	p.Publish(ctx, m, func(err error) {
		if n := a.calls.Add(1); n > 1 {
			p.env.Errorf("done of message %s was called for the %d. time, now with error %v; the first was %v", m.ID, n, err, a.err)
			return
		}
		if err != nil && !errors.Is(err, outbox.ErrUnavailable) && !errors.Is(err, outbox.ErrRefused) && !errors.Is(err, outbox.ErrInvalid) {
			p.env.Errorf("done of message %s got %q, which is neither ErrUnavailable, ErrRefused nor ErrInvalid", m.ID, err)
		}
		a.err = err
		close(a.given)
	})
	return a
}

// flush tells a publisher that collects that there is nothing more to send.
func (p *publisher) flush() {
	if f, ok := p.Publisher.(outbox.Flusher); ok {
		_ = f.Flush() // the answers carry the error
	}
}

// sendAll publishes msgs with at most window of them unanswered.
func (p *publisher) sendAll(msgs []*outbox.Message) []*answer {
	p.env.Helper()
	answers := make([]*answer, len(msgs))
	for i, m := range msgs {
		if i >= window && !isGiven(answers[i-window]) {
			p.flush()
			_ = answers[i-window].wait(p.env) // whoever gets the answers looks at it
		}
		answers[i] = p.send(background(), m)
	}
	p.flush()
	return answers
}

// publish publishes msgs, all of which must be confirmed.
func (p *publisher) publish(msgs ...*outbox.Message) {
	p.env.Helper()
	for _, a := range p.sendAll(msgs) {
		if err := a.wait(p.env); err != nil {
			p.env.Fatalf("publish %s: %v", a.message.ID, err)
		}
	}
}

// publishAgain publishes m until it is confirmed, as a relay does it while the
// broker is unavailable.
func (p *publisher) publishAgain(m *outbox.Message) {
	p.env.Helper()
	deadline := time.Now().Add(patience)
	for {
		a := p.send(background(), m)
		p.flush()
		err := a.wait(p.env)
		switch {
		case err == nil:
			return
		case !errors.Is(err, outbox.ErrUnavailable):
			p.env.Fatalf("publish %s while the connection comes back: %v, want ErrUnavailable or success", m.ID, err)
		case time.Now().After(deadline):
			p.env.Fatalf("the publisher has not recovered in %s: %v", patience, err)
		}
		time.Sleep(time.Millisecond) // the relay's back-off: there is nothing to wait for
	}
}

func (a *answer) wait(e *env) error {
	e.Helper()
	wait(e, a.given, "the answer to message "+a.message.ID)
	return a.err
}

func isGiven(a *answer) bool {
	select {
	case <-a.given:
		return true
	default:
		return false
	}
}

// wantErr reports an answer that is not of class.
func (e *env) wantErr(a *answer, class error) {
	e.Helper()
	if err := a.wait(e); !errors.Is(err, class) {
		e.Errorf("message %s was answered %v, want %v", a.message.ID, err, class)
	}
}
