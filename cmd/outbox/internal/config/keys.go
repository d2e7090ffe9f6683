package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox/relay"
)

// Kinds of values, as --help names them.
const (
	typeURL      = "URL"
	typeName     = "name"
	typeNumber   = "number"
	typeSize     = "size"
	typeDuration = "duration"
	typePatterns = "patterns"
	typeChoice   = "word"
)

// Key is one thing that can be configured.
type Key struct {
	// Name is the place in the file: "database.url" is url below database.
	Name    string
	Type    string
	Usage   string
	Default string
	Example string

	set func(c *Config, values []string) error
}

// Flag is the key's flag, without dashes.
func (k *Key) Flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(k.Name) }

// Env is the key's variable.
func (k *Key) Env() string {
	return "OUTBOX_" + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// List reports whether the key takes several values.
func (k *Key) List() bool { return k.Type == typePatterns }

// split takes lists written with commas apart.
func (k *Key) split(values []string) []string {
	if !k.List() {
		return values
	}
	var parts []string
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				parts = append(parts, part)
			}
		}
	}
	return parts
}

// Keys are all keys, in the order of the documentation.
var Keys = []*Key{
	{Name: "database.url", Type: typeURL, Usage: "database with the outbox: postgres://, postgresql:// or sqlite:PATH",
		Example: "postgres://app:secret@localhost:5432/shop", set: text(func(c *Config) *string { return &c.Database.URL })},
	{Name: "database.schema", Type: typeName, Usage: "schema of the outbox's tables (PostgreSQL)", Default: "outbox",
		set: text(func(c *Config) *string { return &c.Database.Schema })},
	{Name: "database.table_prefix", Type: typeName, Usage: "what the names of the outbox's tables begin with",
		set: text(func(c *Config) *string { return &c.Database.TablePrefix })},
	{Name: "database.listen_url", Type: typeURL, Usage: "connection for notifications, when database.url is a transaction pooler's (PostgreSQL)",
		set: text(func(c *Config) *string { return &c.Database.ListenURL })},

	{Name: "broker.url", Type: typeURL, Usage: "where messages go: amqp://, amqps://, nats:// or stdout:",
		Example: "amqp://guest:guest@localhost:5672/", set: text(func(c *Config) *string { return &c.Broker.URL })},
	{Name: "broker.exchange", Type: typeName, Usage: "topic exchange (RabbitMQ)", Default: "outbox",
		set: text(func(c *Config) *string { return &c.Broker.Exchange })},
	{Name: "broker.stream", Type: typeName, Usage: "stream (JetStream)", Default: "outbox",
		set: text(func(c *Config) *string { return &c.Broker.Stream })},
	{Name: "broker.subject_prefix", Type: typeName, Usage: "what stands before the topic in the subject (JetStream)", Default: "outbox.",
		set: text(func(c *Config) *string { return &c.Broker.SubjectPrefix })},
	{Name: "broker.topology", Type: typeChoice, Usage: "declare creates the exchange or stream if it is missing, check does not", Default: "declare",
		set: topology},

	{Name: "relay.name", Type: typeName, Usage: "name of this relay in the database, for people; else host and process id",
		set: text(func(c *Config) *string { return &c.Relay.Name })},
	{Name: "relay.window", Type: typeNumber, Usage: "messages sent and not yet confirmed", Default: "1000",
		set: number(func(c *relay.Config) *int { return &c.Window })},
	{Name: "relay.memory", Type: typeSize, Usage: "bound of what is read ahead, such as 32MiB", Default: "32MiB",
		set: size(func(c *relay.Config) *int { return &c.Memory })},
	{Name: "relay.read_batch", Type: typeNumber, Usage: "messages read at once", Default: "1000",
		set: number(func(c *relay.Config) *int { return &c.ReadBatch })},
	{Name: "relay.settle_batch", Type: typeNumber, Usage: "confirmed messages deleted at once", Default: "1000",
		set: number(func(c *relay.Config) *int { return &c.SettleBatch })},
	{Name: "relay.lease_ttl", Type: typeDuration, Usage: "how long the shards of a relay that died stay unattended", Default: "10s",
		set: duration(func(c *relay.Config) *time.Duration { return &c.LeaseTTL })},
	{Name: "relay.poll_interval", Type: typeDuration, Usage: "how often to look for messages when nothing tells of them", Default: "1s",
		set: duration(func(c *relay.Config) *time.Duration { return &c.PollInterval })},
	{Name: "relay.drain_timeout", Type: typeDuration, Usage: "how long to wait for outstanding confirms when stopping", Default: "10s",
		set: duration(func(c *relay.Config) *time.Duration { return &c.DrainTimeout })},
	{Name: "relay.pipelined", Type: typePatterns, Usage: "topics of which several messages of a key may be in flight; a refused one is overtaken",
		set: pipelined},
	{Name: "relay.max_shards", Type: typeNumber, Usage: "most shards to own; 0 for an even share", Default: "0",
		set: maxShards},

	{Name: "log.level", Type: typeChoice, Usage: "debug, info, warn or error", Default: "info", set: logLevel},
	{Name: "log.format", Type: typeChoice, Usage: "text or json", Default: "text", set: logFormat},
}

// keyNamed returns the key of that name. It panics if there is none.
func keyNamed(name string) *Key {
	for _, k := range Keys {
		if k.Name == name {
			return k
		}
	}
	panic("config: no key " + name)
}

func text(field func(*Config) *string) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		*field(c) = values[0]
		return nil
	}
}

var errNumber = errors.New("is not a whole number, such as 1000")

func number(field func(*relay.Config) *int) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		n, err := strconv.Atoi(strings.ReplaceAll(values[0], "_", ""))
		if err != nil {
			return errNumber
		}
		return setRelay(c, field, n)
	}
}

func maxShards(c *Config, values []string) error {
	n, err := strconv.Atoi(values[0])
	if err != nil {
		return errNumber
	}
	if n == 0 {
		return nil
	}
	return setRelay(c, func(c *relay.Config) *int { return &c.MaxShards }, n)
}

func size(field func(*relay.Config) *int) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		n, err := parseSize(values[0])
		if err != nil {
			return err
		}
		return setRelay(c, field, n)
	}
}

func duration(field func(*relay.Config) *time.Duration) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		d, err := time.ParseDuration(values[0])
		if err != nil {
			return errors.New("is not a duration, such as 500ms, 10s or 1m30s")
		}
		return setRelay(c, field, d)
	}
}

func pipelined(c *Config, values []string) error {
	one := relay.Config{Pipelined: values}
	c.Relay.Pipelined = values
	return reason(one.Validate(), "Pipelined has ")
}

// setRelay sets a field of the relay's and has the relay say whether it may have
// that value.
func setRelay[T comparable](c *Config, field func(*relay.Config) *T, value T) error {
	var zero T
	if value == zero {
		return errors.New("must not be zero; leave the key out for the default")
	}
	var one relay.Config
	*field(&one) = value
	*field(&c.Relay) = value
	return reason(one.Validate(), ", ")
}

// reason takes from err, if it is not nil, what the names before it would repeat.
func reason(err error, after string) error {
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if _, rest, ok := strings.Cut(text, after); ok {
		text = rest
	}
	return errors.New(text)
}

func topology(c *Config, values []string) error {
	switch values[0] {
	case "declare":
		c.Broker.CheckOnly = false
	case "check":
		c.Broker.CheckOnly = true
	default:
		return unknownWord(values[0], "declare", "check")
	}
	return nil
}

func logLevel(c *Config, values []string) error {
	switch values[0] {
	case "debug", "info", "warn", "error":
		return c.Log.Level.UnmarshalText([]byte(values[0]))
	}
	return unknownWord(values[0], "debug", "info", "warn", "error")
}

func logFormat(c *Config, values []string) error {
	switch values[0] {
	case "text":
		c.Log.JSON = false
	case "json":
		c.Log.JSON = true
	default:
		return unknownWord(values[0], "text", "json")
	}
	return nil
}

func unknownWord(have string, words ...string) error {
	last := len(words) - 1
	list := strings.Join(words[:last], ", ") + " or " + words[last]
	if near := nearest(have, words); near != "" {
		return fmt.Errorf("must be %s; did you mean %s?", list, near)
	}
	return fmt.Errorf("must be %s", list)
}

// Logger returns the logger that l describes, to w.
func (l *Log) Logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: l.Level}
	if l.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// In reports whether the key is one of names, or below one of them: "relay.window"
// is in "relay".
func (k *Key) In(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return k.Name == name || strings.HasPrefix(k.Name, name+".")
	})
}
