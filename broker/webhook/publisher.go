package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

var (
	_ outbox.Publisher = (*Publisher)(nil)
	_ outbox.Flusher   = (*Publisher)(nil)
)

var errPublisherClosed = outbox.Unavailable(errors.New("webhook: closed"))

// rest is how long all messages are answered like one that was ErrUnavailable,
// unsent: long enough for a caller that has more at hand, and has not yet heard of
// it, to find out at once and not after another time-out.
const rest = 10 * time.Millisecond

// Publisher is an [outbox.Publisher] that posts messages to a server; the package's
// documentation tells what its answers mean. Publish waits while Concurrency
// requests are on their way. A message that waits for an earlier one of its key is
// not sent if that was ErrUnavailable, and gets the same answer.
//
// It is safe for concurrent use. done must not call its methods.
type Publisher struct {
	config PublisherConfig
	url    *url.URL // nil if there is none
	keys   signingKeys
	own    http.RoundTripper // for url
	others http.RoundTripper // for the URLs of messages

	ctx     context.Context // ends by Close
	stop    context.CancelFunc
	running sync.WaitGroup // requests

	suspects suspects

	gathering sync.Mutex // held while batch is used; taken before mu
	batch     *job       // events that wait for more, in mode Batched

	mu       sync.Mutex
	closed   bool
	inFlight int                    // jobs
	changed  chan struct{}          // closed when inFlight or failures change, and replaced
	lanes    map[lane]chan struct{} // closed when the last job of a lane has ended
	failures int                    // times that the server was unavailable
	failure  error                  // the last of them
	failedAt time.Time
}

// lane is what keeps an order.
type lane struct{ tenant, key string }

// job is what one request brings.
type job struct {
	members  []member
	answered int    // of the members, from the first
	body     []byte // of the members together, in mode Batched
	before   []chan struct{}
	ended    chan struct{}
	failures int // the publisher's when the job was admitted
}

// member is a message of a job.
type member struct {
	message *outbox.Message
	done    func(error)
	event   []byte // in mode Batched
}

// answer calls each done that was not called.
func (j *job) answer(err error) {
	for _, m := range j.members[j.answered:] {
		m.done(err)
	}
}

// NewPublisher returns a publisher to address, an http or https URL, which may carry
// a user and a password. It may be empty if config has a URL for every message.
// config may be nil. Nothing is sent yet; the error is about the arguments and names
// every fault.
func NewPublisher(address string, config *PublisherConfig) (*Publisher, error) {
	c := config.withDefaults()
	errs := c.validate()
	keys, err := parseSecrets(c.Secrets)
	if err != nil {
		errs = append(errs, err)
	}
	var to *url.URL
	if address == "" && c.URL == nil {
		errs = append(errs, errors.New("the URL is empty: give one, or PublisherConfig.URL"))
	} else if address != "" {
		if to, err = parseAddress(address); err != nil {
			errs = append(errs, fmt.Errorf("the URL %w: want one such as https://example.com/events", err))
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("webhook: %w", errors.Join(errs...))
	}
	c.Secrets = nil // not needed any more, so not shown by accident
	ctx, stop := context.WithCancel(context.Background())
	p := &Publisher{
		config: c, url: to, keys: keys, ctx: ctx, stop: stop,
		changed: make(chan struct{}), lanes: make(map[lane]chan struct{}),
	}
	p.own, p.others = newTransports(&c)
	return p, nil
}

// Publish implements [outbox.Publisher].
func (p *Publisher) Publish(ctx context.Context, m *outbox.Message, done func(error)) {
	if p.config.Mode == Batched {
		if err := p.gather(ctx, m, done); err != nil {
			done(err)
		}
		return
	}
	p.start(ctx, &job{members: []member{{message: m, done: done}}})
}

// Send posts m at once, in the mode of the configuration, and waits for the answer,
// the error that a done would get. It neither waits for other messages of the key
// nor counts towards Concurrency. ctx bounds the request, together with Timeout.
func (p *Publisher) Send(ctx context.Context, m *outbox.Message) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errPublisherClosed
	}
	p.running.Add(1)
	p.mu.Unlock()
	defer p.running.Done()
	if err := ctx.Err(); err != nil {
		return outbox.Unavailable(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	return p.send(ctx, m)
}

// Close gives up what is unanswered, with ErrUnavailable, and closes idle
// connections. It may be called more than once, and returns nil.
func (p *Publisher) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.gathering.Lock()
	if p.batch != nil {
		p.batch.answer(errPublisherClosed)
		p.batch = nil
	}
	p.gathering.Unlock()
	p.running.Wait()
	closeIdle(p.own)
	closeIdle(p.others)
	return nil
}

// start runs a job when there is room for it.
func (p *Publisher) start(ctx context.Context, j *job) {
	if err := p.admit(ctx, j); err != nil {
		j.answer(err)
		return
	}
	go p.run(j)
}

// admit waits until j may run, and gives it its places behind others.
func (p *Publisher) admit(ctx context.Context, j *job) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := p.fault(ctx); err != nil {
			return err
		}
		if p.inFlight < p.config.Concurrency {
			break
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		case <-p.ctx.Done():
		}
		p.mu.Lock()
	}
	p.inFlight++
	p.running.Add(1)
	j.failures = p.failures
	j.ended = make(chan struct{})
	for _, m := range j.members {
		l := lane{m.message.Tenant, m.message.Key}
		if last, ok := p.lanes[l]; ok && last != j.ended {
			j.before = append(j.before, last)
		}
		if l.key != "" {
			p.lanes[l] = j.ended
		}
	}
	return nil
}

// fault tells why nothing can be sent now. The caller holds p.mu.
func (p *Publisher) fault(ctx context.Context) error {
	switch err := ctx.Err(); {
	case p.closed:
		return errPublisherClosed
	case err != nil:
		return outbox.Unavailable(err)
	case p.failures > 0 && time.Since(p.failedAt) < rest:
		return p.failure
	}
	return nil
}

// run sends a job behind those of its lanes.
func (p *Publisher) run(j *job) {
	defer p.running.Done()
	for _, ended := range j.before {
		<-ended
	}
	err := p.attempt(j)
	p.leave(j, err)
	j.answer(err)
}

// attempt sends a job, if nothing has failed since it was admitted, and returns the
// answer of those members that have none yet.
func (p *Publisher) attempt(j *job) error {
	p.mu.Lock()
	failed, failure := j.failures != p.failures, p.failure
	p.mu.Unlock()
	if failed {
		return failure
	}
	if p.config.Mode == Batched {
		return p.sendBatch(j)
	}
	return p.send(p.ctx, j.members[0].message)
}

// leave makes room for other jobs.
func (p *Publisher) leave(j *job, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(err, outbox.ErrUnavailable) {
		p.failures++
		p.failure, p.failedAt = err, time.Now()
	}
	for _, m := range j.members {
		l := lane{m.message.Tenant, m.message.Key}
		if p.lanes[l] == j.ended {
			delete(p.lanes, l)
		}
	}
	p.inFlight--
	close(j.ended)
	close(p.changed)
	p.changed = make(chan struct{})
}
