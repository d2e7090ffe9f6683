package natsjs

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// Topology says who makes the streams and the consumers.
type Topology int

const (
	// Declare makes the streams, the bucket and the consumers that do not exist,
	// and adds topics to consumers that do. A stream that exists is checked, not
	// changed.
	Declare Topology = iota
	// CheckOnly makes nothing: what is missing is an error that names it. The
	// bucket is as "nats kv add" makes it; the stream of the dead letters needs
	// the retention of a work queue.
	CheckOnly
)

// Config is what may be told to a [Broker]. The zero value is usable.
type Config struct {
	// Stream is the name of the stream. Defaults to "outbox". Letters, digits,
	// '-' and '_', at most 240. It begins the names of the stream of the dead
	// letters and of the bucket of the retries too.
	Stream string

	// SubjectPrefix stands before each topic to make the subject. Defaults to
	// "outbox."; ends with a dot, without white space, '*' and '>'.
	SubjectPrefix string

	// Topology says who makes the streams and the consumers. Defaults to
	// [Declare].
	Topology Topology

	// The following five are for streams that [Declare] makes.

	// Replicas is the number of servers that keep each message. Defaults to 1;
	// at most 5. Use 3 in a cluster. The dead letters and the bucket of the
	// retries have as many as the stream has.
	Replicas int

	// MaxAge is how long the stream keeps a message, consumed or not: a queue
	// whose members are away for longer loses messages. Defaults to 7 days; a
	// negative value keeps messages for ever, so that somebody else must purge.
	// A message that waits for a retry grows older too: it must be far greater
	// than all delays together.
	MaxAge time.Duration

	// DeadLetterMaxAge is how long a dead letter is kept that nobody
	// acknowledges. Defaults to 0: for ever. At least 100 ms.
	DeadLetterMaxAge time.Duration

	// MaxBytes is the greatest size of the stream. When it is full it refuses
	// new messages, which the outbox keeps, and drops none. Defaults to 0: no
	// limit but the server's.
	MaxBytes int64

	// DuplicateWindow is how long the server knows an id and drops repeats. A
	// message that is sent again on purpose within it is confirmed and not
	// delivered. Defaults to 2 minutes; at most MaxAge.
	DuplicateWindow time.Duration

	// AckWait is after how long without a sign of life from its subscriber the
	// server delivers an unsettled message again. The subscriber gives these
	// signs by itself, three in that time, for as long as a handler runs. A queue
	// in order goes over to another member after that time too, but a minute at
	// most if the lost one had nothing in hand. Defaults to 30 s; at least
	// 300 ms. It applies to consumers that are made or changed from now on.
	AckWait time.Duration

	// ConfirmTimeout is how long a message may be unanswered. Then all that is
	// outstanding is answered [outbox.ErrUnavailable] and the connection is
	// renewed. Defaults to 30 s.
	ConfirmTimeout time.Duration

	// ConnectTimeout bounds the connecting to one server and each question to
	// it, such as the settlement of a message that is to be retried or is dead.
	// Defaults to 5 s.
	ConnectTimeout time.Duration

	// ReconnectMaxWait is the greatest time between two attempts to connect.
	// They begin 50 ms apart and double, each with up to a half of it taken off
	// by chance. Defaults to 5 s.
	ReconnectMaxWait time.Duration

	// Options are options of the NATS client: credentials, TLS, name and so on.
	// Those for reconnecting have no effect.
	Options []nats.Option

	// Logger gets connections made and lost. Defaults to none.
	Logger *slog.Logger
}

const (
	defaultStream   = "outbox"
	defaultPrefix   = "outbox."
	firstRetryDelay = 50 * time.Millisecond
)

// withDefaults returns a copy of c, which may be nil, without zero values.
func (c *Config) withDefaults() Config {
	var out Config
	if c != nil {
		out = *c
	}
	setDefault(&out.Stream, defaultStream)
	setDefault(&out.SubjectPrefix, defaultPrefix)
	setDefault(&out.Replicas, 1)
	setDefault(&out.MaxAge, 7*24*time.Hour)
	if out.MaxAge < 0 {
		out.MaxAge = 0 // the server's word for ever
	}
	setDefault(&out.DuplicateWindow, 2*time.Minute)
	setDefault(&out.AckWait, 30*time.Second)
	setDefault(&out.ConfirmTimeout, 30*time.Second)
	setDefault(&out.ConnectTimeout, 5*time.Second)
	setDefault(&out.ReconnectMaxWait, 5*time.Second)
	if out.Logger == nil {
		out.Logger = slog.New(slog.DiscardHandler)
	}
	return out
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate reports all that is wrong with c, which has its defaults.
func (c *Config) validate() error {
	var errs []error
	fault := func(field string, value any, reason string) {
		errs = append(errs, fmt.Errorf("natsjs: Config.%s %v %s", field, value, reason))
	}
	if strings.IndexFunc(c.Stream, notNameRune) >= 0 || len(c.Stream) > maxStream {
		fault("Stream", fmt.Sprintf("%q", c.Stream), "may have letters, digits, '-' and '_', at most 240")
	}
	if words, ok := strings.CutSuffix(c.SubjectPrefix, "."); !ok || !validPrefix(words) {
		fault("SubjectPrefix", fmt.Sprintf("%q", c.SubjectPrefix), `must be words that each end with a dot, such as "outbox."`)
	}
	if c.Topology != Declare && c.Topology != CheckOnly {
		fault("Topology", int(c.Topology), "is neither Declare nor CheckOnly")
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		fault("Replicas", c.Replicas, "must be 1 to 5")
	}
	if c.MaxBytes < 0 {
		fault("MaxBytes", c.MaxBytes, "must not be negative")
	}
	if c.DuplicateWindow < 100*time.Millisecond || c.MaxAge > 0 && c.DuplicateWindow > c.MaxAge {
		fault("DuplicateWindow", c.DuplicateWindow, "must be 100ms at least and MaxAge at most")
	}
	if c.MaxAge > 0 && c.MaxAge < 100*time.Millisecond {
		fault("MaxAge", c.MaxAge, "must be 100ms at least, or negative for no limit")
	}
	if c.DeadLetterMaxAge != 0 && c.DeadLetterMaxAge < 100*time.Millisecond {
		fault("DeadLetterMaxAge", c.DeadLetterMaxAge, "must be 100ms at least, or 0 for no limit")
	}
	if c.AckWait < 300*time.Millisecond {
		fault("AckWait", c.AckWait, "must be 300ms at least")
	}
	for name, d := range map[string]time.Duration{
		"ConfirmTimeout": c.ConfirmTimeout, "ConnectTimeout": c.ConnectTimeout, "ReconnectMaxWait": c.ReconnectMaxWait,
	} {
		if d < 0 {
			fault(name, d, "must not be negative")
		}
	}
	return errors.Join(errs...)
}

func notNameRune(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
}

func validPrefix(words string) bool {
	for word := range strings.SplitSeq(words, ".") {
		if word == "" || strings.ContainsAny(word, " \t\r\n\f*>") {
			return false
		}
	}
	return true
}
