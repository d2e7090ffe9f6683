// Package webhook sends and receives messages by HTTP, as CloudEvents 1.0.
package webhook

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/outbox-go/outbox"
)

// Mode is how an event is put into a request
// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).
type Mode int

// The modes of the HTTP protocol binding.
const (
	Structured Mode = iota
	Binary
	Batched
)

// PublisherConfig is the optional part of [NewPublisher].
type PublisherConfig struct {
	Mode        Mode
	Source      string                                       // attribute source of the events
	Headers     http.Header                                  // of every request
	Secrets     []string                                     // sign by Standard Webhooks, "whsec_..."
	Timeout     time.Duration                                // for one request
	Concurrency int                                          // requests at once
	BatchSize   int                                          // events of one request in mode Batched
	URL         func(*outbox.Message) string                 // address of a message; "" for the publisher's own
	Allow       func(host string) bool                       // internal hosts that URL may name
	Body        func(*outbox.Message) (*http.Request, error) // in the place of CloudEvents; see the docs
	Client      *http.Client
	Logger      *slog.Logger
}

// StatusError is the answer of a server that did not take a message.
type StatusError struct {
	Code       int
	RetryAfter time.Duration
	Body       string // its beginning
}

func (e *StatusError) Error() string { return http.StatusText(e.Code) }

// Publisher is an [outbox.Publisher].
type Publisher struct{}

// NewPublisher returns a publisher that posts to url.
func NewPublisher(url string, config *PublisherConfig) (*Publisher, error) {
	return nil, errors.ErrUnsupported
}

// Publish implements [outbox.Publisher].
func (p *Publisher) Publish(ctx context.Context, m *outbox.Message, done func(error)) {}

// Send posts one message and waits for the answer.
func (p *Publisher) Send(ctx context.Context, m *outbox.Message) error { return nil }

// Flush implements [outbox.Flusher].
func (p *Publisher) Flush() error { return nil }

// Close implements [outbox.Publisher].
func (p *Publisher) Close() error { return nil }

// ReceiverConfig is the optional part of [NewReceiver].
type ReceiverConfig struct {
	MaxBody int64
	Secrets []string
	Timeout time.Duration // for an answer of the worker
	Logger  *slog.Logger
}

// Receiver takes CloudEvents by HTTP and hands them to a worker: it is an
// [http.Handler] and an [outbox.Subscriber].
type Receiver struct{}

// NewReceiver returns a receiver.
func NewReceiver(config *ReceiverConfig) (*Receiver, error) { return nil, errors.ErrUnsupported }

func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {}

// Subscribe implements [outbox.Subscriber].
func (r *Receiver) Subscribe(ctx context.Context, s outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	return nil
}

// Close implements [outbox.Subscriber].
func (r *Receiver) Close() error { return nil }
