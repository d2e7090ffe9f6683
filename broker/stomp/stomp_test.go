package stomp

import (
	"net/url"
	"testing"

	"go.uber.org/goleak"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/brokertest"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(testenv.Watchdog)) })
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, queueType := range []QueueType{Quorum, Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			brokertest.Run(t, func(t *testing.T) brokertest.Broker { return conforming(t, queueType) })
		})
	}
}

func conforming(t *testing.T, queueType QueueType) brokertest.Broker {
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.STOMPAddr())
	address := via(t, server.STOMPURL(server.NewVHost(t)), proxy)
	return brokertest.Broker{
		Publisher: func(t *testing.T) outbox.Publisher { return newPublisher(t, address, nil) },
		Subscriber: func(t *testing.T) outbox.Subscriber {
			return newSubscriber(t, address, &SubscriberConfig{QueueType: queueType})
		},
		Features: brokertest.Features{
			Redelivered: true,
			Cut:         proxy.Cut,
			Stall:       proxy.Stall,
			Resume:      proxy.Resume,
		},
	}
}

// via returns the URL with the proxy's address.
func via(t testing.TB, rawURL string, proxy *testenv.Proxy) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = proxy.Addr()
	return u.String()
}

func newPublisher(t testing.TB, url string, config *PublisherConfig) *Publisher {
	t.Helper()
	p, err := NewPublisher(url, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func newSubscriber(t testing.TB, url string, config *SubscriberConfig) *Subscriber {
	t.Helper()
	s, err := NewSubscriber(url, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
