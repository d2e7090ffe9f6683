package rabbitmq

import (
	"errors"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestEveryFaultOfTheConfigurationIsReported(t *testing.T) {
	t.Parallel()
	faulty := Connection{Heartbeat: time.Millisecond, DialTimeout: -1, ReconnectMin: time.Minute, ReconnectMax: time.Second}
	_, err := NewPublisher("http://localhost", &PublisherConfig{
		Connection: faulty, Exchange: "amq.mine", Topology: 7, Unroutable: 7, ConfirmTimeout: -1,
	})
	wantTexts(t, err, "URL", "Heartbeat", "DialTimeout", "ReconnectMin", "Topology", "Unroutable", "ConfirmTimeout")
	_, err = NewSubscriber("amqp://localhost/?auth_mechanism=magic", &SubscriberConfig{
		Connection: faulty, Exchange: strings.Repeat("x", 256), QueueType: "stream",
		QueueArguments: map[string]any{amqp.QueueTypeArg: "classic", amqp.SingleActiveConsumerArg: true, "x": struct{}{}},
		ConfirmTimeout: -1,
	})
	wantTexts(t, err, "magic", "Heartbeat", "Exchange", `"stream"`, "set QueueType instead", "set InOrder", "QueueArguments:", "ConfirmTimeout")
	_, err = NewSubscriber("amqp://localhost", &SubscriberConfig{Exchange: strings.Repeat("x", 252)})
	wantTexts(t, err, "at most 251")
}

func TestFaultyURLKeepsItsPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"amqp://user:s3cr3t@host:port/", "amqp://user:s3cr3t/x@host/", "amqp://user:s3cr3t#x@host", "amqp://user:s3cr3t%zz@host",
		"amqp://user:12/s3cr3t@host", "amqp://user:12#s3cr3t@host/", "amqp://user:s3cr3t @host", "amqp://user:s3cr3t@a,,b", "amqp://user:s3cr3t@a,b:port", "s3cr3t", "redis://user:s3cr3t@host", "",
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
	c := Connection{ReconnectMin: 100 * time.Millisecond, ReconnectMax: 30 * time.Second}
	for n, most := range map[int]time.Duration{0: c.ReconnectMin, 3: 8 * c.ReconnectMin, 9: c.ReconnectMax, 40: c.ReconnectMax, 1 << 40: c.ReconnectMax} {
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
	for _, c := range []struct {
		err  error
		want bool
	}{
		{&amqp.Error{Code: amqp.AccessRefused, Server: true}, true},
		{&amqp.Error{Code: amqp.NotAllowed, Server: true, Reason: "vhost x not found"}, true},
		{&amqp.Error{Code: amqp.NotAllowed, Server: true, Reason: "connection limit (1) is reached"}, false},
		{&amqp.Error{Code: amqp.InternalError, Server: true, Reason: "vhost 'x' is down"}, false},
		{&amqp.Error{Code: amqp.ConnectionForced, Server: true}, false},
		{handshakeError(amqp.ErrCredentials), false},
		{handshakeError(amqp.ErrVhost), false},
		{amqp.ErrSASL, true},
		{errors.New("connection refused"), false},
	} {
		if got := hopeless(c.err); got != c.want {
			t.Errorf("hopeless(%v) is %v", c.err, got)
		}
	}
}

func wantTexts(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error\n%v\ndoes not say %q", err, text)
		}
	}
}
