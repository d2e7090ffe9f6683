package config

import (
	"io"
	"log/slog"
	"slices"
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
	typeAge      = "age"
	typePatterns = "patterns"
	typeList     = "list"
	typeChoice   = "word"
	typeFile     = "file"
	typeSecret   = "secret"
	typeSecrets  = "secrets"
	typeHeaders  = "header" // secret
)

// Key is one thing that can be configured.
type Key struct {
	// Name is the place in the file: "database.url" is url below database.
	Name    string
	Type    string
	Usage   string
	Default string
	Example string

	flag string // if it is not made of the name
	set  func(c *Config, values []string) error
}

// Flag is the key's flag, without dashes.
func (k *Key) Flag() string {
	if k.flag != "" {
		return k.flag
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(k.Name)
}

// Env is the key's variable.
func (k *Key) Env() string {
	return "OUTBOX_" + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// List reports whether the key takes several values.
func (k *Key) List() bool {
	return k.Type == typePatterns || k.Type == typeList || k.Type == typeHeaders || k.Type == typeSecrets
}

// split takes lists written with commas apart. Headers may have commas: several are
// written in lines.
func (k *Key) split(values []string) []string {
	if !k.List() {
		return values
	}
	separator := ","
	if k.Type == typeHeaders {
		separator = "\n"
	}
	var parts []string
	for _, value := range values {
		for part := range strings.SplitSeq(value, separator) {
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

	{Name: "broker.url", Type: typeURL, Usage: "where messages go: amqp://, amqps://, nats://, stomp://, stomps://, http://, https:// or stdout:; amqp and stomp try several hosts in turn, host:port,other:port",
		Example: "amqp://guest:guest@localhost:5672/", set: text(func(c *Config) *string { return &c.Broker.URL })},
	{Name: "broker.exchange", Type: typeName, Usage: "topic exchange (RabbitMQ)", Default: "outbox",
		set: text(func(c *Config) *string { return &c.Broker.Exchange })},
	{Name: "broker.stream", Type: typeName, Usage: "stream (JetStream)", Default: "outbox",
		set: text(func(c *Config) *string { return &c.Broker.Stream })},
	{Name: "broker.subject_prefix", Type: typeName, Usage: "what stands before the topic in the subject (JetStream)", Default: "outbox.",
		set: text(func(c *Config) *string { return &c.Broker.SubjectPrefix })},
	{Name: "broker.topology", Type: typeChoice, Usage: "declare creates the exchange or stream if it is missing, check does not", Default: "declare",
		set: choice("declare", "check", func(c *Config) *bool { return &c.Broker.CheckOnly })},
	{Name: "broker.unroutable", Type: typeChoice, Usage: "refuse tries a message again that no queue is bound for, accept has the broker drop it (RabbitMQ)",
		Default: "refuse", set: unroutable},
	{Name: "broker.destination", Type: typeName, Usage: "template of the destinations, with {topic} (STOMP)", Default: "/topic/{topic}",
		set: text(func(c *Config) *string { return &c.Broker.Destination })},
	{Name: "broker.dop", Type: typeChoice, Usage: "yes sends the headers of django-outbox-pattern, and has queues as it declares them (STOMP)", Default: "no",
		set: choice("no", "yes", func(c *Config) *bool { return &c.Broker.DOP })},
	{Name: "broker.queue_type", Type: typeChoice, Usage: "quorum or classic: type of the queues that are declared (RabbitMQ, STOMP); else quorum, or with broker.exclusive classic",
		set: queueType},
	{Name: "broker.queue_headers", Type: typeList, Usage: "name=value: further headers of the frame that declares the queue (STOMP)", Example: "x-max-length=1000",
		set: queueHeaders},
	{Name: "broker.exclusive", Type: typeChoice, Usage: "yes has a queue that is one connection's alone, and ends with it (STOMP)", Default: "no",
		set: choice("no", "yes", func(c *Config) *bool { return &c.Broker.Exclusive })},
	{Name: "broker.heartbeat", Type: typeDuration, Usage: "interval by which a dead peer is noticed (RabbitMQ, STOMP)", Default: "10s",
		set: positive(func(c *Config) *time.Duration { return &c.Broker.Heartbeat })},
	{Name: "broker.reconnect_max", Type: typeDuration, Usage: "longest wait between attempts to connect (not HTTP)", Default: "30s",
		set: positive(func(c *Config) *time.Duration { return &c.Broker.ReconnectMax })},
	{Name: "broker.connections", Type: typeNumber, Usage: "connections to publish by, a key always by the same; the relay mostly waits for one that is down; more than one only where that is shown to pay (RabbitMQ, JetStream, STOMP)",
		Default: "1", set: between(1, 16, func(c *Config) *int { return &c.Broker.Connections })},
	{Name: "broker.mode", Type: typeChoice, Usage: "structured, binary or batched: how CloudEvents are put into requests (HTTP)", Default: "structured",
		set: mode},
	{Name: "broker.source", Type: typeName, Usage: "attribute source of CloudEvents (HTTP)", Default: "/outbox",
		set: text(func(c *Config) *string { return &c.Broker.Source })},
	{Name: "broker.request_headers", Type: typeHeaders, Usage: "\"Name: value\" of every request, of which nothing is shown; in a variable one a line (HTTP)",
		set: requestHeaders},
	{Name: "broker.secrets", Type: typeSecrets, Usage: "sign requests by Standard Webhooks: whsec_..., several while one is replaced (HTTP)",
		set: func(c *Config, values []string) error { c.Broker.Secrets = values; return nil }},
	{Name: "broker.timeout", Type: typeDuration, Usage: "longest time of a request (HTTP)", Default: "30s",
		set: positive(func(c *Config) *time.Duration { return &c.Broker.Timeout })},
	{Name: "broker.concurrency", Type: typeNumber, Usage: "requests at once (HTTP)", Default: "16",
		set: between(1, 1000, func(c *Config) *int { return &c.Broker.Concurrency })},
	{Name: "broker.tls.ca", Type: typeFile, Usage: "certificates (PEM) of the authorities that the broker's certificate is checked by; else the system's",
		set: text(func(c *Config) *string { return &c.Broker.TLS.CA })},
	{Name: "broker.tls.cert", Type: typeFile, Usage: "client certificate (PEM), with its intermediate ones, for a broker that wants one",
		set: text(func(c *Config) *string { return &c.Broker.TLS.Cert })},
	{Name: "broker.tls.key", Type: typeFile, Usage: "private key (PEM) of broker.tls.cert",
		set: text(func(c *Config) *string { return &c.Broker.TLS.Key })},
	{Name: "broker.tls.key_password", Type: typeSecret, Usage: "password of the private key, if that is encrypted; others can see flags, so give it by the variable",
		set: text(func(c *Config) *string { return &c.Broker.TLS.KeyPassword })},
	{Name: "broker.tls.server_name", Type: typeName, Usage: "name that the broker's certificate must have; else the host of the URL",
		set: text(func(c *Config) *string { return &c.Broker.TLS.ServerName })},

	{Name: "relay.name", Type: typeName, Usage: "name of this relay in the database, for people; else host and process id",
		set: text(func(c *Config) *string { return &c.Relay.Name })},
	{Name: "relay.window", Type: typeNumber, Usage: "messages sent and not yet confirmed", Default: "1000",
		set: number(func(c *relay.Config) *int { return &c.Window })},
	{Name: "relay.memory", Type: typeSize, Usage: "bound of what is read ahead, such as 16MiB", Default: "16MiB",
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
	{Name: "relay.max_attempts", Type: typeNumber, Usage: "how often the broker may refuse a message before relay.on_dead decides", Default: "10",
		set: number(func(c *relay.Config) *int { return &c.MaxAttempts })},
	{Name: "relay.refused_backoff", Type: typeDuration, Usage: "wait before a refused message is tried again; doubles each time", Default: "1s",
		set: duration(func(c *relay.Config) *time.Duration { return &c.RefusedBackoff })},
	{Name: "relay.max_refused_backoff", Type: typeDuration, Usage: "longest wait of a refused message; else 5m, or relay.refused_backoff if that is longer",
		set: maxRefusedBackoff},
	{Name: "relay.on_dead", Type: typeList, Usage: "pattern=policy, skip, park or block: what becomes of the successors of a message that is given up; else skip",
		Example: "orders.#=park", set: policies},
	{Name: "relay.keep", Type: typeAge, Usage: "how long sent messages stay in the history: 0, an age such as 30d, or forever", Default: "0",
		set: keep},
	{Name: "relay.rates", Type: typeList, Usage: "pattern=number/s (or /m, /h): most messages of a topic in that time, for each relay: each route and outbox of each process",
		Example: "mail.#=100/s", set: rates},
	{Name: "relay.rename", Type: typeList, Usage: "pattern=template: topic at the broker, made of {topic}, {version}, {type} and {tenant}",
		Example: "orders.#={topic}.{version}", set: renames},
	{Name: "relay.route", Type: typeName, Usage: "route to drain; else that of messages without one",
		set: route},
	{Name: "relay.outboxes", Type: typeList, Usage: "schema or schema/table_prefix of each outbox in the database to drain, instead of that of database.*",
		Example: "shop,billing/ob_", set: outboxes},
	{Name: "relay.listen", Type: typeName, Usage: "address for /healthz, /readyz and /metrics, such as :9464; else none",
		set: listen},

	{Name: "subscribe.queue", Type: typeName, flag: "queue", Usage: "durable name that the workers of a service share; else made of --topic",
		Example: "billing", set: text(func(c *Config) *string { return &c.Subscribe.Queue })},
	{Name: "subscribe.topics", Type: typePatterns, flag: "topic", Usage: "what the queue collects: patterns, in which * is one word and # any number; may be repeated",
		Example: "user.*", set: func(c *Config, values []string) error { c.Subscribe.Topics = values; return nil }},
	{Name: "subscribe.forward", Type: typeURL, flag: "forward", Usage: "address to post messages to, as CloudEvents",
		set: text(func(c *Config) *string { return &c.Subscribe.Forward })},
	{Name: "subscribe.concurrency", Type: typeNumber, flag: "concurrency", Usage: "messages handled at once", Default: "10",
		set: between(1, maxWindow, func(c *Config) *int { return &c.Subscribe.Concurrency })},
	{Name: "subscribe.prefetch", Type: typeNumber, flag: "prefetch", Usage: "messages taken and not yet settled; else twice the concurrency, at least 100",
		set: between(1, maxWindow, func(c *Config) *int { return &c.Subscribe.Prefetch })},
	{Name: "subscribe.timeout", Type: typeDuration, flag: "timeout", Usage: "longest time for one message", Default: "30s",
		set: positive(func(c *Config) *time.Duration { return &c.Subscribe.Timeout })},
	{Name: "subscribe.retries", Type: typeList, flag: "retries", Usage: "waits before the second attempt, the third and so on; the last one repeats", Default: "1s,10s,1m,5m",
		set: retries},
	{Name: "subscribe.max_attempts", Type: typeNumber, flag: "max-attempts", Usage: "attempts before a message is a dead letter; else one more than retries has waits",
		set: between(1, 1000, func(c *Config) *int { return &c.Subscribe.MaxAttempts })},
	{Name: "subscribe.in_order", Type: typeChoice, flag: "in-order", Usage: "yes handles messages of a key in their order, also when one fails, by one worker at a time", Default: "no",
		set: choice("no", "yes", func(c *Config) *bool { return &c.Subscribe.InOrder })},
	{Name: "subscribe.dead_letters", Type: typeChoice, flag: "dead-letters", Usage: "yes handles the queue's dead letters in the place of its messages", Default: "no",
		set: choice("no", "yes", func(c *Config) *bool { return &c.Subscribe.DeadLetters })},
	{Name: "subscribe.message_id", Type: typeList, flag: "message-id", Usage: "headers that have the id, the first that is there, for messages of other systems",
		Example: "cap-msg-id,dop-msg-id", set: func(c *Config, values []string) error { c.Subscribe.MessageID = values; return nil }},
	{Name: "subscribe.inbox_keep", Type: typeAge, flag: "inbox-keep", Usage: "how long the inbox knows a message again: an age, or forever", Default: "30d",
		set: inboxKeep},
	{Name: "subscribe.shutdown_timeout", Type: typeDuration, flag: "shutdown-timeout", Usage: "how long what runs may go on when stopping", Default: "30s",
		set: positive(func(c *Config) *time.Duration { return &c.Subscribe.ShutdownTimeout })},

	{Name: "log.level", Type: typeChoice, Usage: "debug, info, warn or error", Default: "info", set: logLevel},
	{Name: "log.format", Type: typeChoice, Usage: "text or json", Default: "text",
		set: choice("text", "json", func(c *Config) *bool { return &c.Log.JSON })},
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
