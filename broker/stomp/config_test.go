package stomp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

func TestEveryFaultOfTheConfigurationIsReported(t *testing.T) {
	t.Parallel()
	faulty := Connection{
		SendHeartbeat: time.Millisecond, ReceiveHeartbeat: time.Hour, DialTimeout: -1, ReconnectMin: time.Minute, ReconnectMax: time.Second,
	}
	_, err := NewPublisher("http://localhost", &PublisherConfig{Connection: faulty, Destination: "{topic}/{topic}", ReceiptTimeout: -1})
	wantTexts(t, err, "URL", "SendHeartbeat", "ReceiveHeartbeat", "DialTimeout", "ReconnectMin", "Destination", "ReceiptTimeout")
	_, err = NewSubscriber("stomp://localhost/?vhost=x", &SubscriberConfig{
		Connection: faulty, Destination: "/topic/all", QueueType: "stream", ReceiptTimeout: -1,
		QueueHeaders: map[string]string{"x-queue-type": "classic", "exclusive": "true", "destination": "/queue/x", "": "x", "x-max-length": "1\n"},
	})
	wantTexts(t, err, "parameters", "SendHeartbeat", "ReceiveHeartbeat", "DialTimeout", "ReconnectMin", "Destination", `"stream"`, "ReceiptTimeout",
		"set QueueType instead", "set Exclusive instead", `"destination": the driver sets it`, "needs a name", "control characters")
	_, err = NewSubscriber("stomp://localhost", &SubscriberConfig{Exclusive: true, QueueType: Quorum})
	wantTexts(t, err, "Exclusive", "classic")
}

func TestWhatGoesTogetherIsAccepted(t *testing.T) {
	t.Parallel()
	for _, c := range []*SubscriberConfig{
		nil, {}, {DOP: true}, {Exclusive: true}, {Exclusive: true, QueueType: Classic}, {DOP: true, QueueType: Quorum},
		{Destination: "/exchange/orders/{topic}"}, {Destination: "/queue/{queue}"},
		{Connection: Connection{ReconnectMax: time.Hour}, QueueHeaders: map[string]string{"x-max-length": "5"}},
	} {
		newSubscriber(t, "stomp://localhost", c)
	}
	for _, c := range []*PublisherConfig{nil, {Destination: "/queue/all"}, {Destination: "/exchange/orders/{topic}.v1", DOP: true}} {
		newPublisher(t, "stomps://localhost", c)
	}
}

// RabbitMQ refuses a message to a destination that it does not know, and would refuse
// each of them.
func TestDestinationsThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, destination := range []string{
		"/topics/{topic}", "/topic/a/{topic}", "/topic/", "/queue", "/queue/", "/", "/exchange", "/exchange/", "/exchange//{topic}",
		"/exchange/a/b/{topic}", "/temp-queue/x", "/reply-queue/x", "/amq/queue/", "/amq/queue/a/b", "topic/{topic}", "/queue/a\n",
	} {
		_, err := NewPublisher("stomp://localhost", &PublisherConfig{Destination: destination})
		wantTexts(t, err, "Destination", fmt.Sprintf("%q", destination))
		_, err = NewSubscriber("stomp://localhost", &SubscriberConfig{Destination: destination})
		wantTexts(t, err, "Destination", fmt.Sprintf("%q", destination))
	}
	for _, destination := range []string{"/queue/{topic}", "/amq/queue/{topic}", "/exchange/{topic}", "/exchange/orders", "/exchange/{topic}/{topic}"} {
		_, err := NewSubscriber("stomp://localhost", &SubscriberConfig{Destination: destination})
		wantTexts(t, err, "Destination", fmt.Sprintf("%q", destination))
	}
}

func TestSubscriptionsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := newSubscriber(t, "stomp://localhost", &SubscriberConfig{Exclusive: true})
	err := s.Subscribe(t.Context(), outbox.Subscription{Queue: "a%2Fb", Topics: []string{"a", "b"}, Prefetch: 1 << 16, InOrder: true}, func() {}, nil)
	wantTexts(t, err, "Queue", "%2F", "Topics", "Prefetch", "InOrder")
}

func TestURL(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]address{
		"stomp://host":                        {hosts: []string{"host:61613"}, vhost: "/"},
		"stomps://host/":                      {hosts: []string{"host:61614"}, vhost: "/"},
		"stomp://host/%2F":                    {hosts: []string{"host:61613"}, vhost: "/"},
		"stomp://u:p@a,b:1,[::1],[::1]:2/v":   {login: "u", pass: "p", hosts: []string{"a:61613", "b:1", "[::1]:61613", "[::1]:2"}, vhost: "v"},
		"stomp://u%40x:p%3A%2F%40@host/a%2Fb": {login: "u@x", pass: "p:/@", hosts: []string{"host:61613"}, vhost: "a/b"},
		"stomp://user@host":                   {login: "user", hosts: []string{"host:61613"}, vhost: "/"},
	} {
		got, err := parseAddress(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		want.scheme, _, _ = strings.Cut(url, ":")
		if got.String() != want.String() || got.login != want.login || got.pass != want.pass || strings.Contains(got.String(), "p%3A") {
			t.Errorf("%s is %+v, want %+v", url, *got, want)
		}
	}
}

func TestFaultyURLKeepsItsPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"stomp://user:s3cr3t@host:port/", "stomp://user:s3cr3t/x@host/", "stomp://user:s3cr3t#x@host", "stomp://user:s3cr3t%zz@host",
		"stomp://user:s3cr3t @ho st", "stomp://user:s3cr3t@a,,b", "stomp://user:s3cr3t@a,b:0", "stomp://user:s3cr3t@host/a/b", "s3cr3t",
		"redis://user:s3cr3t@host", "stomp://user:s3cr3t@host?password=s3cr3t", "stomp://user:s3cr3t@", "stomp://user:s3cr3t%0A@host", "",
		"stomp://user:12/s3cr3t@host", "stomp://user:12/x@s3cr3t",
	} {
		_, err := NewPublisher(url, nil)
		if err == nil {
			t.Errorf("%q was accepted", url)
		} else if strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("the error %q has the password", err)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	t.Parallel()
	c := Connection{ReconnectMin: 100 * time.Millisecond, ReconnectMax: time.Hour}
	for n, most := range map[int]time.Duration{0: c.ReconnectMin, 3: 8 * c.ReconnectMin, 16: c.ReconnectMax, 40: c.ReconnectMax, 1 << 40: c.ReconnectMax} {
		var greatest time.Duration
		for range 1000 {
			greatest = max(greatest, c.backoff(n))
		}
		if greatest > most || greatest < most/2 {
			t.Errorf("attempt %d waits %v at most, want nearly %v", n, greatest, most)
		}
	}
}

func TestHopeless(t *testing.T) {
	t.Parallel()
	refused := &stomp.ServerError{Handshake: true, Message: "Bad CONNECT", Body: "Access refused for user 'x'"}
	untrusted := &tls.CertificateVerificationError{Err: errors.New("unknown authority")}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{connectError{refused}, true},
		{connectError{untrusted}, true},
		{connectError{untrusted, refused}, true},
		{connectError{refused, errors.New("connection refused")}, false},
		{connectError{&stomp.ServerError{Handshake: true, Body: "Virtual host 'x' access denied"}}, false},
		{refused, false},
	} {
		if got := hopeless(c.err); got != c.want {
			t.Errorf("hopeless(%v) is %v", c.err, got)
		}
	}
}

func TestQueueNameIsTheLastSegment(t *testing.T) {
	t.Parallel()
	for destination, want := range map[string]string{
		"/topic/user.created.v1": "user.created.v1", "/exchange/orders/order.placed": "order.placed", "/queue/mail": "mail",
		"mail": "mail", "/queue/a%2Fb": "a/b", "/topic/": "", "": "",
	} {
		if got := QueueName(destination); got != want {
			t.Errorf("QueueName(%q) is %q, want %q", destination, got, want)
		}
	}
}

// No queue of one subscription has the name of another's.
func TestQueuesApart(t *testing.T) {
	t.Parallel()
	c := (&SubscriberConfig{}).withDefaults()
	seen := map[string]string{}
	for _, name := range []string{
		"q", "DLQ.q", "DLQ.DLQ.q", "RETRY.10s.q", "ORDER.q", "BOUND.0123456789abcdef.q", "queue.q", "queue.DLQ.q", "queue.queue.DLQ.q", "queue.queue.q",
	} {
		queue := c.queueName(name)
		own := []string{queue, deadLetterQueue(queue), orderPrefix + queue, boundPrefix + "0123456789abcdef." + queue}
		for _, t := range tiers {
			own = append(own, t.queue(queue))
		}
		for _, at := range own {
			if other, twice := seen[at]; twice {
				t.Errorf("%q is the name of queues of %q and %q", at, other, name)
			}
			seen[at] = name
		}
	}
	dop := (&SubscriberConfig{DOP: true}).withDefaults()
	if got := dop.queueName("DLQ.q"); got != "DLQ.q" {
		t.Errorf("with DOP the queue is %q, want the name as it is", got)
	}
}
