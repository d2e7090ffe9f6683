package relay

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// OnceStore is the part of a [Store] that [RunOnce] needs. The stores' views of a
// transaction of the caller's, by their method Within, have it, too.
type OnceStore interface {
	Shards() int
	Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error)
	Leave(ctx context.Context, owner string, doubt map[uint8]int64) error
	Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error)
	Settle(ctx context.Context, refs []store.Ref, keep bool) error
	Fail(ctx context.Context, failures []store.Failure) error
	Parked(ctx context.Context, shards store.ShardSet) ([]store.Key, error)
}

// OnceConfig changes the defaults of [RunOnce].
type OnceConfig struct {
	// Name is for people; see [Config].
	Name string

	// Limit is the greatest number of messages that are sent. Defaults to 100; 1 to
	// 10,000. A run takes fewer when they have more than 32 MiB together.
	Limit int

	// Timeout is how long sending one message may take: the context of the call
	// ends then. What a run that crashed had taken comes free after twice the time
	// and ten seconds. Defaults to 30 s; at least 1 ms.
	Timeout time.Duration

	// Tenant, if not nil, limits the run to the messages of this tenant.
	Tenant *string

	// MaxAttempts is how often a message may be refused before its topic's policy
	// decides. Defaults to 3; 1 to 1,000,000.
	MaxAttempts int

	// Policies, RefusedBackoff and MaxRefusedBackoff are as in [Config].
	Policies          []TopicPolicy
	RefusedBackoff    time.Duration
	MaxRefusedBackoff time.Duration

	// Keep has the messages that were sent stay in the history.
	Keep bool
}

// forProducer returns the settings of the producer in the run.
func (c *OnceConfig) forProducer() *ProducerConfig {
	return &ProducerConfig{Limit: c.Limit, Timeout: c.Timeout}
}

// forRelay returns the settings that a relay has, too.
func (c *OnceConfig) forRelay() *Config {
	d := &Config{
		Name: c.Name, MaxAttempts: c.MaxAttempts, Policies: c.Policies,
		RefusedBackoff: c.RefusedBackoff, MaxRefusedBackoff: c.MaxRefusedBackoff,
	}
	setDefault(&d.MaxAttempts, 3)
	return d
}

// Validate reports all that is wrong with the config. Zero fields are right.
func (c *OnceConfig) Validate() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.forProducer().Validate(), c.forRelay().Validate())
}

// RunOnce sends, one after another and in the order of their emits, the messages of s
// that are due, up to OnceConfig.Limit, and returns. It is for those who run the loop
// themselves, or have none: a [Relay] is faster and stays. Each message is settled at
// once when it was sent, so that a crash repeats one at most. Runs and relays at the
// same time have different messages; where the others have all there is nothing to
// send.
//
// With a view of the caller's transaction all that the run does to the store becomes
// lasting when that commits; if it is rolled back, all is sent again, and nobody knows
// that it was sent before.
//
// An error or a panic of publish does not end the run: it is stored with the message,
// which waits or, after MaxAttempts, becomes what its topic's policy says. A broker
// that is unavailable three times in a row has no more asked of it in this run. If s
// is nil, there is no outbox, and nothing is done. What is paused is left alone, except
// by a view of a transaction. A config may be nil.
func RunOnce(ctx context.Context, s OnceStore, publish outbox.PublishFunc, config *OnceConfig) (result Result, err error) {
	if config == nil {
		config = &OnceConfig{}
	}
	if err := config.Validate(); err != nil || isNil(s) {
		return Result{}, err
	}
	r := newOnce(s, config)
	p := NewProducer(r, r.message, publish, config.forProducer())
	p.ready = r.ready
	defer func() {
		leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
		defer cancel()
		if leaveErr := s.Leave(leaving, r.owner, r.doubt()); leaveErr != nil && err == nil {
			err = fmt.Errorf("relay: give back what was taken: %w", leaveErr)
		}
	}()
	result, err = p.Produce(ctx)
	result.Dead = r.dead
	return result, err
}

// isNil reports whether s is nil or a nil pointer.
func isNil(s OnceStore) bool {
	v := reflect.ValueOf(s)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// onceItem is a message that a run has taken.
type onceItem struct {
	store.Row
	expires time.Time // by the local clock, zero for never
}

// once is one run: the source of its producer.
type once struct {
	store   OnceStore
	config  *OnceConfig
	relay   Config
	timeout time.Duration
	owner   string

	held     map[uint8]store.Lease
	deadline time.Time // of the leases, by the local clock
	parked   map[store.Key]bool
	waiting  map[store.Key]bool
	pauses   []store.Pause

	sending     *onceItem       // may have been sent, and is not noted
	unanswered  map[uint8]int64 // the greatest position of each shard that may have been sent
	unavailable int             // times in a row
	dead        int
}

// mostUnavailable is how often in a row the broker may be away before a run asks no
// more of it.
const mostUnavailable = 3

func newOnce(s OnceStore, config *OnceConfig) *once {
	return &once{
		store: s, config: config, relay: config.forRelay().withDefaults(), timeout: config.forProducer().withDefaults().Timeout,
		owner: uuid.NewString(), parked: map[store.Key]bool{}, waiting: map[store.Key]bool{}, unanswered: map[uint8]int64{},
	}
}

// claim takes what is free, or renews what it has: a shard whose lease is another one
// by now is lost, and one that somebody wants is given back, since nothing of it is
// open between two messages.
func (r *once) claim(ctx context.Context) error {
	request := store.ClaimRequest{
		Owner: r.owner, Name: r.relay.Name, TTL: 2*r.timeout + 10*time.Second, Most: len(r.held), Guest: true, Doubt: r.doubt(),
	}
	for {
		asked := time.Now()
		claim, err := r.store.Claim(ctx, request)
		if err != nil {
			return fmt.Errorf("relay: take shards: %w", err)
		}
		held := map[uint8]store.Lease{}
		for _, lease := range claim.Leases {
			if r.held == nil || r.held[lease.Shard] == lease {
				held[lease.Shard] = lease
			}
		}
		r.held = held
		r.deadline = asked.Add(request.TTL - request.TTL/10)
		request.Release = claim.Wanted
		for _, shard := range request.Release.Slice() {
			delete(r.held, uint8(shard)) //nolint:gosec // below 64
		}
		if request.Release == 0 {
			return nil
		}
		request.Most = max(1, len(r.held))
	}
}

// renew makes sure that the leases hold for as long as sending a message may take.
func (r *once) renew(ctx context.Context) error {
	if time.Until(r.deadline) > r.timeout || len(r.held) == 0 {
		return nil
	}
	return r.claim(ctx)
}

// ready tells whether a message that was taken may be sent now.
func (r *once) ready(ctx context.Context, it *onceItem) (bool, error) {
	if r.unavailable >= mostUnavailable {
		return false, nil
	}
	if err := r.renew(ctx); err != nil {
		return false, err
	}
	_, held := r.held[it.Shard]
	return held, nil
}

// message is the producer's mapper.
func (r *once) message(_ context.Context, it *onceItem) (*outbox.Message, error) {
	if !it.expires.IsZero() && !time.Now().Before(it.expires) {
		return &it.Message, &reasonError{store.Expired, textExpired}
	}
	r.sending = it
	return &it.Message, nil
}

// Sent implements [Source].
func (r *once) Sent(ctx context.Context, it *onceItem) error {
	if err := r.store.Settle(ctx, []store.Ref{refOf(&it.Row)}, r.config.Keep); err != nil {
		return err
	}
	r.sending, r.unavailable = nil, 0
	return nil
}

// Failed implements [Source].
func (r *once) Failed(ctx context.Context, it *onceItem, cause error) error {
	r.sending = nil
	if errors.Is(cause, outbox.ErrUnavailable) {
		r.unavailable++
		r.doubtful(it)
		return nil
	}
	r.unavailable = 0
	if !isAnswer(cause) {
		r.doubtful(it)
	}
	return r.fail(ctx, []store.Failure{r.failure(&it.Row, cause)})
}

// doubtful notes that a message may have been sent without an answer that was noted.
func (r *once) doubtful(it *onceItem) {
	r.unanswered[it.Shard] = max(r.unanswered[it.Shard], it.Position)
}

// doubt returns up to which position of each shard a message may have been sent
// without an answer that was noted.
func (r *once) doubt() map[uint8]int64 {
	if it := r.sending; it != nil {
		r.doubtful(it)
	}
	return r.unanswered
}

// fail records failures. A lease that was lost is no error: the message is another's
// to send.
func (r *once) fail(ctx context.Context, failures []store.Failure) error {
	if len(failures) == 0 {
		return nil
	}
	err := r.store.Fail(ctx, failures)
	if errors.Is(err, store.ErrLeaseLost) {
		return r.claim(ctx) // to see which
	}
	if err != nil {
		return err
	}
	for i := range failures {
		if failures[i].Dead != "" {
			r.dead++
		}
	}
	return nil
}
