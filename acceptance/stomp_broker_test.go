package acceptance

import (
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp"
)

var stompConnection = stomp.Connection{ReconnectMin: reconnectMin, ReconnectMax: reconnectMax}

// stompRabbit is a virtual host of RabbitMQ that is spoken to by STOMP.
type stompRabbit struct{ *rabbit }

func newSTOMPRabbit(t testing.TB, private bool) *stompRabbit {
	t.Helper()
	return &stompRabbit{newRabbit(t, private)}
}

func newSTOMPSystem(t testing.TB, private bool) *system {
	t.Helper()
	return newSystem(newPostgres(t), newSTOMPRabbit(t, private))
}

func (b *stompRabbit) brokerURL() string { return b.server.STOMPURL(b.address) }

func (b *stompRabbit) subscriber(t testing.TB) outbox.Subscriber {
	t.Helper()
	return stompSubscriber(t, b.brokerURL(), &stomp.SubscriberConfig{Connection: stompConnection})
}

func (b *stompRabbit) shortHeartBeat(t testing.TB) outbox.Subscriber {
	t.Helper()
	connection := stompConnection
	connection.SendHeartbeat, connection.ReceiveHeartbeat = time.Second, time.Second
	return stompSubscriber(t, b.brokerURL(), &stomp.SubscriberConfig{Connection: connection})
}

func (b *stompRabbit) hasDeadLetters(t testing.TB, queue string) bool {
	t.Helper()
	return queueLength(t, b.address, "DLQ."+queue) >= 0
}

func stompSubscriber(t testing.TB, url string, config *stomp.SubscriberConfig) *stomp.Subscriber {
	t.Helper()
	s, err := stomp.NewSubscriber(url, config)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func stompPublisher(t testing.TB, url string, config *stomp.PublisherConfig) *stomp.Publisher {
	t.Helper()
	p, err := stomp.NewPublisher(url, config)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}
