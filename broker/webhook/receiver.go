package webhook

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/outbox-go/outbox"
)

// ReceiverConfig is the optional part of [NewReceiver].
type ReceiverConfig struct {
	// MaxBody is the greatest number of bytes in the body of a request. Defaults to
	// 1 MiB; 1 KiB to 64 MiB. It is in memory until the answer.
	MaxBody int64

	// MaxBatch is the greatest number of events in a request of mode [Batched].
	// Defaults to 1,000; 1 to 10,000.
	MaxBatch int

	// MaxWaiting is how many requests may wait for their turn, in memory, up to Timeout;
	// others get 503 at once. A [Publisher] that gets one stops for a while, so it
	// should be more than the requests at once of all senders, less the worker's
	// Prefetch. Defaults to the Prefetch or 100, whichever is more; 1 to 100,000.
	MaxWaiting int

	// Timeout is how long the worker may take for the events of a request, the wait
	// for their turn included. Then the answer is 503, which counts as an attempt if
	// the worker has one of them, and what the worker still does with them counts only
	// if the handler's inbox remembers it. It should be less than the senders' own
	// time-out and more than a handler takes. Defaults to 25 s; at least 1 ms.
	Timeout time.Duration

	// Secrets are those of the senders, by Standard Webhooks: each is "whsec_" and 24
	// to 64 bytes in base64, and a request must be signed by one of them within the
	// last 5 min. The signature is of the body alone: in mode [Binary] the attributes
	// are not protected. Defaults to none, and no check.
	Secrets []string

	// Authorize is asked about each request, after Secrets; an error is answered with
	// 401, and not shown. It checks signatures of other kinds, or tokens: by a
	// comparison in constant time, please. Called from several goroutines. Defaults
	// to none.
	Authorize func(req *http.Request, body []byte) error

	// AllowedOrigins are the senders, by their DNS names, that get leave to send by
	// the handshake of the CloudEvents web hooks
	// (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md);
	// "*" is all. It keeps none from sending. Defaults to none.
	AllowedOrigins []string

	// Topic returns the topic of an event that another system sent; see [Receiver]
	// for what is in m. Called from several goroutines. Defaults to its type.
	Topic func(m *outbox.Message) string

	// Logger gets the requests that are refused, but for those of which the worker
	// tells. Defaults to none.
	Logger *slog.Logger
}

// Receiver takes CloudEvents by HTTP and hands them to a worker: it is an
// [http.Handler] and an [outbox.Subscriber]. See the package's documentation for
// the answers that it gives.
//
// There is no queue: an event is at its sender until the worker has settled it.
// So a subscription's RetryDelays have no meaning, and Queue is but the name that a
// worker's inbox knows it by; InOrder and DeadLetters are refused. One Subscribe runs
// at a time, and before the first and between them the answer is 503. Subscription.Prefetch bounds the events that the worker has at
// once; ReceiverConfig.MaxWaiting requests may wait for their turn, and the others
// get 503.
//
// It is the sender that counts the attempts and keeps what is dead. So a message
// has no Failure, and each attempt is the first to the worker: of its Retries the
// first delay counts, and MaxAttempts only if it is 1.
//
// If the sender is a [Publisher], all fields of the message are as they were, and so is
// Message.ID if it is a UUID, as the outbox makes them. Other ids may be those of other
// senders, too: then ID is the source and the id, which identify an event together,
// joined by a space. So it is with another system's event, and both are also in the
// headers ce-source and ce-id. Then Type is the type; Topic is the type, too, unless
// ReceiverConfig.Topic says otherwise; Key is the extension partitionkey, ContentType
// the datacontenttype, CreatedAt the time. The attributes subject and dataschema are
// the headers ce-subject and ce-dataschema; the extensions are headers of their own
// names, but correlationid and causationid, which are correlation-id and
// causation-id.
//
// All methods are safe for concurrent use.
type Receiver struct {
	config ReceiverConfig
	keys   signingKeys
	closed chan struct{}
	close  func()

	mu      sync.Mutex
	current *subscription // nil when there is none
}

// NewReceiver returns a receiver. It reports all that is wrong with config, joined.
func NewReceiver(config *ReceiverConfig) (*Receiver, error) {
	c := config.withDefaults()
	errs := c.validate()
	keys, err := parseSecrets(c.Secrets)
	if errs = append(errs, err); errors.Join(errs...) != nil {
		return nil, fmt.Errorf("webhook: receiver: %w", errors.Join(errs...))
	}
	c.Secrets = nil // not needed any more, so not shown by accident
	r := &Receiver{config: c, keys: keys, closed: make(chan struct{})}
	r.close = sync.OnceFunc(func() { close(r.closed) })
	return r, nil
}

func (c *ReceiverConfig) withDefaults() ReceiverConfig {
	var d ReceiverConfig
	if c != nil {
		d = *c
	}
	d.MaxBody = cmp.Or(d.MaxBody, 1<<20)
	d.MaxBatch = cmp.Or(d.MaxBatch, 1000)
	d.Timeout = cmp.Or(d.Timeout, 25*time.Second)
	d.AllowedOrigins = slices.Clone(d.AllowedOrigins)
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	return d
}

// validate returns the faults of c, whose defaults are set, but those of Secrets.
func (c *ReceiverConfig) validate() []error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.MaxBody < 1<<10 || c.MaxBody > 64<<20 {
		fault("MaxBody is %d, want %d to %d", c.MaxBody, 1<<10, 64<<20)
	}
	if c.MaxBatch < 1 || c.MaxBatch > 10000 {
		fault("MaxBatch is %d, want 1 to 10000", c.MaxBatch)
	}
	if c.MaxWaiting < 0 || c.MaxWaiting > 100_000 {
		fault("MaxWaiting is %d, want 1 to 100000, or 0 for the default", c.MaxWaiting)
	}
	if c.Timeout < time.Millisecond {
		fault("Timeout is %v, want 1ms or more", c.Timeout)
	}
	for i, origin := range c.AllowedOrigins {
		if origin != "*" && !isToken(origin) {
			fault("AllowedOrigins[%d] is %q, want a DNS name such as eventemitter.example.com, or *", i, origin)
		}
	}
	return errs
}

// Close ends a running Subscribe with an error, and all requests with 503: what the
// worker has not settled comes again. It returns nil.
func (r *Receiver) Close() error {
	r.close()
	return nil
}
