package wire

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/worker"
)

// CheckSubscription reports what is wrong with what is to be consumed, and completes
// it: a queue without a name has the last segment of its only destination.
func CheckSubscription(l *config.Loaded) {
	CheckBroker(l)
	switch BrokerKind(l.Broker.URL) {
	case Stdout, HTTP:
		l.Fault("broker.url", "is of what nothing can be received from: use amqp://, amqps://, nats://, stomp:// or stomps://")
	}
	s := &l.Subscribe
	for i, topic := range s.Topics {
		s.Topics[i] = topicOf(l.Broker, topic)
		if err := outbox.ValidatePattern(s.Topics[i]); err != nil {
			l.Fault("subscribe.topics", fmt.Sprintf("has %q, which %v", topic, err))
		} else if prefix := destination.FindString(s.Topics[i]); prefix != "" && BrokerKind(l.Broker.URL) != STOMP {
			l.Fault("subscribe.topics", fmt.Sprintf("has %q, which is a destination of STOMP: write %q", topic, strings.TrimPrefix(topic, prefix)))
		}
	}
	if s.Queue == "" && len(s.Topics) == 1 && !strings.ContainsAny(s.Topics[0], "*#") {
		s.Queue = stomp.QueueName(s.Topics[0])
	}
	if s.Queue == "" {
		l.Require("subscribe.queue")
	} else if err := (&outbox.Subscription{Queue: s.Queue, Prefetch: 1, DeadLetters: true}).Validate(); err != nil {
		_, reason, _ := strings.Cut(err.Error(), strconv.Quote(s.Queue)+" ")
		l.Fault("subscribe.queue", reason)
	}
	switch {
	case !s.DeadLetters:
		l.Require("subscribe.topics")
	case s.InOrder:
		l.Fault("subscribe.in_order", "does not go with subscribe.dead_letters: dead letters have no order")
	case len(s.Topics) == 0:
		s.Topics = []string{"#"}
	}
	if s.Forward != "" {
		to := l.Broker
		to.URL = s.Forward
		webhookFaults(to, func(key string, err error) {
			if key = "broker." + key; key == "broker.url" {
				key = "subscribe.forward"
			}
			fault(l, key, err)
		})
	}
}

// destination is what destinations of STOMP begin with, in the place of which other
// brokers have nothing.
var destination = regexp.MustCompile(`^/(topic|queue|amq/queue|exchange/[^/]*)/`)

// topicOf returns the topic of what may be a destination of the broker's, as
// django-outbox-pattern names what it consumes: /topic/NAME.
func topicOf(c config.Broker, text string) string {
	before, after, ok := strings.Cut(c.Destination, "{topic}")
	if BrokerKind(c.URL) != STOMP || !ok || !strings.HasPrefix(text, before) || !strings.HasSuffix(text, after) {
		return text
	}
	return strings.TrimSuffix(strings.TrimPrefix(text, before), after)
}

// OpenForward returns a publisher to subscribe.forward. Its settings are those of
// broker.* for HTTP, but for TLS, which is the broker's own.
func OpenForward(c config.Config) (*webhook.Publisher, error) {
	settings := webhookConfig(c.Broker, nil)
	settings.Timeout, settings.Concurrency = c.Subscribe.Timeout, min(c.Subscribe.Concurrency, 1000)
	return webhook.NewPublisher(c.Subscribe.Forward, settings)
}

// OpenInbox returns the outbox that c names for its inbox, with a connection for
// each message that is handled at once. It fails if there is no inbox.
func OpenInbox(ctx context.Context, c config.Database, concurrency int, logger *slog.Logger) (Store, error) {
	connections := 0
	if !strings.Contains(c.URL, "pool_max_conns") {
		connections = concurrency + 1 // one to purge
	}
	var s Store
	var err error
	if DatabaseKind(c.URL) == SQLite {
		s, err = OpenSQLite(c)
	} else {
		s, err = OpenPostgres(ctx, c, connections, logger)
	}
	if err != nil {
		return nil, err
	}
	const longAgo = 100 * 365 * 24 * time.Hour
	if _, err := s.CountInbox(ctx, longAgo); err != nil {
		return nil, errors.Join(DatabaseError("look into the inbox", c, err), s.Close())
	}
	return s, nil
}

// Handle registers a handler that runs once for each message that succeeds; see
// [Store].
func (s *PostgresStore) Handle(w *worker.Worker, pattern string, handler func(context.Context, *worker.Delivery[[]byte]) error, opts ...worker.HandleOption) {
	worker.HandleTx(w, s.Store, pattern, func(ctx context.Context, _ pgx.Tx, d *worker.Delivery[[]byte]) error {
		return handler(ctx, d)
	}, opts...)
}

// Handle registers a handler that runs once for each message that succeeds; see
// [Store].
func (s *SQLiteStore) Handle(w *worker.Worker, pattern string, handler func(context.Context, *worker.Delivery[[]byte]) error, opts ...worker.HandleOption) {
	worker.HandleTx(w, s.Store, pattern, func(ctx context.Context, _ *sql.Tx, d *worker.Delivery[[]byte]) error {
		return handler(ctx, d)
	}, opts...)
}
