package natsjs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

// Publisher is an [outbox.Publisher]. It keeps one connection and renews it when
// it is lost; what was sent on a connection is answered before anything is sent
// on the next. It is safe for concurrent use.
type Publisher struct {
	broker *Broker
	cancel context.CancelFunc
	stop   <-chan struct{} // closed by cancel
	ended  chan struct{}   // closed when run has returned

	mu      sync.Mutex
	session *session // nil while there is no connection
	why     error    // why there is none
}

// Publisher opens a publisher. It waits for the first attempt to connect, at
// most [Config.ConnectTimeout] for each server; if that fails the publisher goes
// on trying, and answers [outbox.ErrUnavailable] with the reason meanwhile.
func (b *Broker) Publisher() *Publisher {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Publisher{broker: b, cancel: cancel, stop: ctx.Done(), ended: make(chan struct{}), why: errConnecting}
	tried := make(chan struct{})
	go p.run(ctx, sync.OnceFunc(func() { close(tried) }))
	<-tried
	return p
}

// Publish sends m to the stream. An invalid topic, and a message that is greater
// than the server or the stream takes, is [outbox.ErrInvalid]; a stream that is
// full, [outbox.ErrRefused].
func (p *Publisher) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	if err := ctx.Err(); err != nil {
		done(outbox.Unavailable(err))
		return
	}
	if err := outbox.ValidateTopic(m.Topic); err != nil {
		done(outbox.Invalid(fmt.Errorf("natsjs: topic %w", err)))
		return
	}
	p.mu.Lock()
	s, why := p.session, p.why
	p.mu.Unlock()
	if s == nil {
		done(why)
		return
	}
	if err := p.send(s, m, done); err != nil {
		done(err)
	}
}

// send sends m on s. If it returns an error done is the caller's to call.
func (p *Publisher) send(s *session, m *outbox.Message, done func(error)) error {
	out := outgoings.Get().(*outgoing)
	out.msg = nats.Msg{Subject: p.broker.config.SubjectPrefix + m.Topic, Header: out.headers.fill(m), Data: m.Payload}
	err := s.send(&out.msg, done)
	out.msg = nats.Msg{} // the payload must not stay in memory
	if len(m.Headers) <= mostPooled {
		outgoings.Put(out)
	}
	return err
}

// outgoing is a message for the client, which copies what it sends: the next one
// can use its room.
type outgoing struct {
	msg     nats.Msg
	headers headers
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// mostPooled is the number of a user's headers up to which the room is kept.
const mostPooled = 32

// Close answers what is outstanding with [outbox.ErrUnavailable] and closes the
// connection. It must not be called by a done. It returns nil.
func (p *Publisher) Close() error {
	p.cancel()
	<-p.ended
	return nil
}

// run keeps a session until ctx ends.
func (p *Publisher) run(ctx context.Context, tried func()) {
	defer close(p.ended)
	defer tried()
	log := p.broker.config.Logger.With("role", "publisher", "stream", p.broker.config.Stream)
	failures := 0
	for {
		s, err := p.open(ctx)
		if err == nil {
			log.Info("connected", "server", s.conn.ConnectedAddr())
			p.install(s, nil)
			tried()
			err = s.watch(p.stop)
			p.install(nil, err)
			s.end(err)
			if s.confirmed() {
				failures = -1 // it was a good one: try at once
			}
		}
		if ctx.Err() != nil {
			p.install(nil, errClosed)
			return
		}
		p.install(nil, err)
		tried()
		failures++
		log.Warn("not connected", "error", err, "failures", failures)
		if !pause(p.stop, p.broker.retryDelay(failures)) {
			p.install(nil, errClosed)
			return
		}
	}
}

func (p *Publisher) install(s *session, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session, p.why = s, why
}

// open connects and sees to the stream. Its error is ErrUnavailable.
func (p *Publisher) open(ctx context.Context) (*session, error) {
	c, err := p.broker.dial(ctx, "publisher")
	if err != nil {
		return nil, err
	}
	if _, err := p.broker.ensureStream(ctx, c); err != nil {
		c.close()
		return nil, outbox.Unavailable(err)
	}
	s, err := newSession(c, p.broker.config.ConfirmTimeout)
	if err != nil {
		c.close()
		return nil, unavailable("subscribe to answers", err)
	}
	return s, nil
}

// session is one connection and what is outstanding on it.
type session struct {
	conn    *conn
	inbox   string // the answers' subjects begin so
	timeout time.Duration
	broken  chan struct{} // closed when the server no longer takes messages

	mu      sync.Mutex
	last    uint64             // number of the last message sent
	waiting map[uint64]waiting // by number
	oldest  uint64             // no message before it waits
	over    error              // set when the session has ended
	good    bool               // it has confirmed something
	failed  error              // why broken was closed

	answering sync.Mutex // held while done is called; taken before mu
}

type waiting struct {
	sent time.Time
	done func(error)
}

func newSession(c *conn, timeout time.Duration) (*session, error) {
	s := &session{
		conn: c, inbox: c.NewInbox() + ".", timeout: timeout,
		broken: make(chan struct{}), waiting: map[uint64]waiting{}, oldest: 1,
	}
	sub, err := c.Subscribe(s.inbox+"*", s.answer)
	if err != nil {
		return nil, err
	}
	return s, errors.Join(sub.SetPendingLimits(-1, -1), c.FlushTimeout(timeout))
}

// send sends msg. If it returns an error done is the caller's to call.
func (s *session) send(msg *nats.Msg, done func(error)) error {
	s.mu.Lock()
	if s.over != nil {
		s.mu.Unlock()
		return s.over
	}
	s.last++
	n := s.last
	s.waiting[n] = waiting{sent: time.Now(), done: done}
	s.mu.Unlock()

	msg.Reply = replySubject(s.inbox, n)
	err := s.conn.PublishMsg(msg)
	if err == nil {
		return nil
	}
	if _, mine := s.take(n); !mine {
		return nil // answered by the session's end
	}
	return classifySend(err)
}

func (s *session) take(n uint64) (waiting, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.waiting[n]
	delete(s.waiting, n)
	return w, ok
}

// answer handles one answer of the server's.
func (s *session) answer(msg *nats.Msg) {
	n, ok := numberOf(msg.Subject, s.inbox)
	if !ok {
		return
	}
	err := classifyAnswer(msg)
	s.answering.Lock()
	defer s.answering.Unlock()
	w, ok := s.take(n)
	if !ok {
		return
	}
	s.note(err)
	w.done(err)
}

// note remembers that the session was good, or ends one whose server does not
// take messages at the moment: what follows must not overtake.
func (s *session) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.good = true
	case s.failed == nil && errors.Is(err, outbox.ErrUnavailable):
		s.failed = err
		close(s.broken)
	}
}

func (s *session) confirmed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.good
}

// watch returns why the session has to end.
func (s *session) watch(stop <-chan struct{}) error {
	ticker := time.NewTicker(max(s.timeout/4, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return errClosed
		case <-s.conn.lost:
			return errLost
		case <-s.broken:
			return s.failed
		case now := <-ticker.C:
			if s.overdue(now) {
				return errNoAnswer
			}
		}
	}
}

// overdue reports whether the oldest message has waited too long.
func (s *session) overdue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; s.oldest <= s.last; s.oldest++ {
		if w, ok := s.waiting[s.oldest]; ok {
			return now.Sub(w.sent) >= s.timeout
		}
	}
	return false
}

// end answers all that is outstanding, in the order it was sent, and closes the
// connection.
func (s *session) end(why error) {
	s.answering.Lock()
	s.mu.Lock()
	s.over = why
	var left []waiting
	for n := s.oldest; n <= s.last && len(s.waiting) > 0; n++ {
		if w, ok := s.waiting[n]; ok {
			left = append(left, w)
			delete(s.waiting, n)
		}
	}
	s.mu.Unlock()
	for _, w := range left {
		w.done(why)
	}
	s.answering.Unlock()
	s.conn.close()
}
