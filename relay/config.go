package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"time"

	"github.com/outbox-go/outbox"
)

// Config changes the defaults of [New].
type Config struct {
	// Name is for people: it tells relays apart in the database. Defaults to host
	// name and process id.
	Name string

	// Window is the number of messages sent and not yet answered by the broker.
	// Defaults to 1,000; 1 to 100,000.
	Window int

	// Memory bounds what is read ahead, in bytes. Defaults to 16 MiB; at least
	// 64 KiB. One message that is larger is still read, alone. Beside it, keys that
	// wait and have no room take 32 bytes each, and parked keys their names.
	Memory int

	// ReadBatch is the number of messages read at once. Defaults to 1,000; at
	// most 10,000.
	ReadBatch int

	// SettleBatch is the number of confirmed messages deleted at once. Those that
	// are unconfirmed or not yet deleted are never more than Window and SettleBatch
	// together: so many may be sent again after a crash. Defaults to 1,000; at most
	// 10,000.
	SettleBatch int

	// SettleDelay is how long confirmed messages are gathered for a batch that is
	// not full. Defaults to 10 ms.
	SettleDelay time.Duration

	// LeaseTTL is how long the shards of a relay that died stay unattended.
	// Renewed five times as often. Defaults to 10 s; at least 500 ms.
	LeaseTTL time.Duration

	// PollInterval is how long a relay that is not told of new messages waits
	// before it looks by itself. Defaults to 1 s.
	PollInterval time.Duration

	// SweepInterval is how often an idle relay reads from the start, to find rows
	// that did not come in the usual way, such as those of a dump restored while
	// it ran. Defaults to 1 min; negative for never.
	SweepInterval time.Duration

	// DrainTimeout is how long Run waits, when its context has ended, for the
	// answers to what was sent. Defaults to 10 s.
	DrainTimeout time.Duration

	// MaxShards is the greatest number of shards to own. Defaults to no limit
	// but the even share.
	MaxShards int

	// Pipelined are patterns of the topics whose messages of one key may be sent
	// before the one ahead of them is confirmed. It is faster when there are few
	// keys, and a message that is refused is overtaken by those in flight behind
	// it. Defaults to none: of each key one message is in flight.
	Pipelined []string

	// MaxAttempts is how often the broker may refuse a message before its topic's
	// policy decides. Defaults to 10; 1 to 1,000,000.
	MaxAttempts int

	// Policies say, by topic, what becomes of messages that are out of attempts or
	// can never be sent. The first whose pattern matches decides. Defaults to Skip
	// for all topics.
	Policies []TopicPolicy

	// RefusedBackoff is how long a refused message waits, and its key with it,
	// before the second attempt; it doubles with each attempt up to
	// MaxRefusedBackoff, less a random part of up to a half. Defaults to 1 s and
	// 5 min.
	RefusedBackoff    time.Duration
	MaxRefusedBackoff time.Duration

	// UnavailableBackoff is the mean time before the first message that probes
	// whether the broker is back; it doubles up to MaxUnavailableBackoff, with
	// full jitter. Defaults to 100 ms and 10 s.
	UnavailableBackoff    time.Duration
	MaxUnavailableBackoff time.Duration

	// Rates bound, by topic, how many messages are sent a second, by this relay
	// alone. The first whose pattern matches counts. What has to wait for it holds
	// up nothing but its key. While more of it waits than Memory holds, half of what
	// Memory holds is sent a minute at least, and a greater rate is not reached.
	// Defaults to none.
	Rates []Rate

	// Transform changes a copy of a message just before it is sent, each time that
	// it is. An error or a panic makes the message undeliverable, unless the error
	// is [outbox.ErrRefused] or [outbox.ErrUnavailable], and so does a change of its
	// ID, Position or Route. It must be safe for concurrent use and fast: the other
	// messages wait for it. Defaults to none.
	Transform func(ctx context.Context, m *outbox.Message) error

	// Keep is how long messages that were sent stay in the history: 0 for not at
	// all, which is the default, or [Forever]. At least 1 s otherwise.
	Keep time.Duration

	// PurgeInterval is how often the relay deletes from the history what is older
	// than Keep. Defaults to 1 min; at least 1 s.
	PurgeInterval time.Duration

	// Logger gets what the loops come upon. Defaults to slog.Default().
	Logger *slog.Logger

	// Hooks are told what happens; see [Hook].
	Hooks []Hook
}

// Forever keeps all of the history.
const Forever = time.Duration(math.MaxInt64)

// withDefaults returns a copy in which nothing is left open.
func (c *Config) withDefaults() Config {
	var d Config
	if c != nil {
		d = *c
	}
	if d.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		d.Name = fmt.Sprintf("%s:%d", host, os.Getpid())
	}
	setDefault(&d.Window, 1000)
	setDefault(&d.Memory, 16<<20)
	setDefault(&d.ReadBatch, 1000)
	setDefault(&d.SettleBatch, 1000)
	setDefault(&d.SettleDelay, 10*time.Millisecond)
	setDefault(&d.LeaseTTL, 10*time.Second)
	setDefault(&d.PollInterval, time.Second)
	setDefault(&d.SweepInterval, time.Minute)
	setDefault(&d.DrainTimeout, 10*time.Second)
	setDefault(&d.MaxAttempts, 10)
	setDefault(&d.PurgeInterval, time.Minute)
	setDefault(&d.RefusedBackoff, time.Second)
	setDefault(&d.MaxRefusedBackoff, max(5*time.Minute, d.RefusedBackoff))
	setDefault(&d.UnavailableBackoff, 100*time.Millisecond)
	setDefault(&d.MaxUnavailableBackoff, max(10*time.Second, d.UnavailableBackoff))
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return d
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports all that is wrong with the config. Zero fields are right: they
// stand for the defaults.
func (c *Config) Validate() error {
	d := c.withDefaults()
	var errs []error
	within := func(name string, value, least, most int) {
		if value < least || value > most {
			errs = append(errs, fmt.Errorf("relay: %s is %d, must be %d to %d", name, value, least, most))
		}
	}
	atLeast := func(name string, value, least time.Duration) {
		if value < least {
			errs = append(errs, fmt.Errorf("relay: %s is %v, must be at least %v", name, value, least))
		}
	}
	within("Window", d.Window, 1, 100_000)
	within("Memory", d.Memory, 64<<10, 1<<40)
	within("ReadBatch", d.ReadBatch, 1, 10_000)
	within("SettleBatch", d.SettleBatch, 1, 10_000)
	within("MaxShards", d.MaxShards, 0, 1<<20)
	within("MaxAttempts", d.MaxAttempts, 1, 1_000_000)
	atLeast("SettleDelay", d.SettleDelay, 0)
	atLeast("LeaseTTL", d.LeaseTTL, 500*time.Millisecond)
	atLeast("PollInterval", d.PollInterval, time.Millisecond)
	atLeast("DrainTimeout", d.DrainTimeout, 0)
	atLeast("RefusedBackoff", d.RefusedBackoff, 0)
	atLeast("MaxRefusedBackoff", d.MaxRefusedBackoff, d.RefusedBackoff)
	atLeast("UnavailableBackoff", d.UnavailableBackoff, time.Millisecond)
	atLeast("MaxUnavailableBackoff", d.MaxUnavailableBackoff, d.UnavailableBackoff)
	atLeast("PurgeInterval", d.PurgeInterval, time.Second)
	if d.Keep != 0 {
		atLeast("Keep", d.Keep, time.Second)
	}
	errs = append(errs, d.topicFaults()...)
	return errors.Join(errs...)
}

// topicFaults returns what is wrong with the settings by topic.
func (c *Config) topicFaults() (errs []error) {
	pattern := func(field, pattern string) {
		if err := outbox.ValidatePattern(pattern); err != nil {
			errs = append(errs, fmt.Errorf("relay: %s has %q, which %w", field, pattern, err))
		}
	}
	for _, p := range c.Pipelined {
		pattern("Pipelined", p)
	}
	for _, p := range c.Policies {
		pattern("Policies", p.Pattern)
		if p.Policy > Block {
			errs = append(errs, fmt.Errorf("relay: Policies has %v for %q, must be Skip, Park or Block", p.Policy, p.Pattern))
		}
	}
	for _, r := range c.Rates {
		pattern("Rates", r.Pattern)
		if !(r.PerSecond >= minRate && r.PerSecond <= maxRate) {
			errs = append(errs, fmt.Errorf("relay: Rates has %v a second for %q, must be %v to %v: pause a topic that is not to be sent",
				r.PerSecond, r.Pattern, minRate, maxRate))
		}
	}
	return errs
}
