package rabbitmq

import (
	"crypto/tls"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestHostsOfURL(t *testing.T) {
	t.Parallel()
	for rawURL, want := range map[string][]string{
		"amqp://":                       {`amqp://localhost:5672, vhost "/"`},
		"amqp://h":                      {`amqp://h:5672, vhost "/"`},
		"amqps://u:p@a,b:1/v%2Fw?x=1,2": {`amqps://a:5671, vhost "v/w"`, `amqps://b:1, vhost "v/w"`},
		"amqp://[::1]:1,[::2],c":        {`amqp://::1:1, vhost "/"`, `amqp://::2:5672, vhost "/"`, `amqp://c:5672, vhost "/"`},
		"amqp://u:p,q@h/":               {`amqp://h:5672, vhost "/"`},
		"amqp://u@a/v,w%40x?y=@":        {`amqp://a:5672, vhost "v,w@x"`},
	} {
		addresses, err := parseAddresses(rawURL)
		if err != nil {
			t.Errorf("%s: %v", rawURL, err)
		}
		var got []string
		for _, a := range addresses {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", rawURL, got, want)
		}
	}
	for _, rawURL := range []string{"amqp://a,,b/", "amqp://a,/", "amqp://,/", "amqp://a:1,b:x/", "amqp://u@a,v@b:x/", "a,b"} {
		if addresses, err := parseAddresses(rawURL); err == nil {
			t.Errorf("%s was taken as %v", rawURL, addresses)
		}
	}
}

// twoHosts returns a URL with the hosts of two proxies before the same broker.
func twoHosts(t *testing.T) (rawURL string, first, second *testenv.Proxy) {
	t.Helper()
	server := testenv.RabbitMQ(t)
	first, second = testenv.NewProxy(t, server.Addr()), testenv.NewProxy(t, server.Addr())
	u, err := url.Parse(server.NewVHost(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Host = first.Addr() + "," + second.Addr()
	return u.String(), first, second
}

func TestHostsAreTriedInTurn(t *testing.T) {
	t.Parallel()
	impatient := quick
	impatient.DialTimeout = 300 * time.Millisecond
	for name, tc := range map[string]struct {
		config  Connection
		trouble func(first, second *testenv.Proxy)
		second  bool // the connections are with the second
	}{
		"both there":       {quick, func(_, _ *testenv.Proxy) {}, false},
		"the first away":   {quick, func(first, _ *testenv.Proxy) { first.Refuse() }, true},
		"the second away":  {quick, func(_, second *testenv.Proxy) { second.Refuse() }, false},
		"the first silent": {impatient, func(first, _ *testenv.Proxy) { first.Stall() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address, first, second := twoHosts(t)
			tc.trouble(first, second)
			in := subscribe(t, address, &SubscriberConfig{Connection: tc.config}, all(10))
			in.waitReady()
			if failed := publishAgain(t, newPublisher(t, address, &PublisherConfig{Connection: tc.config}), testMessages("a", 1)); failed != nil {
				t.Fatal(failed)
			}
			mustSettle(t, in.next(), outbox.Settlement{Outcome: outbox.Ack})
			if used := second.Connections() == 2; used != tc.second {
				t.Errorf("the second host has %d connections, the first %d", second.Connections(), first.Connections())
			}
		})
	}
}

// TestConnectionsMoveToAnotherHost and back, while messages are under way.
func TestConnectionsMoveToAnotherHost(t *testing.T) {
	t.Parallel()
	address, first, second := twoHosts(t)
	in := subscribe(t, address, &SubscriberConfig{Connection: quick}, all(100))
	in.waitReady()
	p := newPublisher(t, address, &PublisherConfig{Connection: quick})
	for i, move := range []struct{ from, to *testenv.Proxy }{{first, second}, {second, first}} {
		msgs := testMessages([]string{"there", "back"}[i], 2000)
		want := map[string]bool{}
		for _, m := range msgs {
			want[m.ID] = true
		}
		move.to.Accept()
		cut := move.from.CutAfter(100_000)
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			<-cut
			move.from.Refuse()
			move.from.Cut() // who came back in between
		}()
		if failed := publishAgain(t, p, msgs); failed != nil {
			t.Fatal(failed)
		}
		in.collect(want)
		select {
		case <-gone:
		case <-time.After(patience):
			t.Fatalf("move %d: the first connections were with the other host", i)
		}
		deadline := time.Now().Add(patience)
		for move.to.Connections() != 2 || move.from.Connections() != 0 {
			if time.Now().After(deadline) {
				t.Fatalf("move %d: %d connections have moved, %d have not", i, move.to.Connections(), move.from.Connections())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestHostThatFailsInBetween is cut off by the first host anywhere between connecting
// and being ready, and comes to the second with what it has.
func TestHostThatFailsInBetween(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		begins func(t *testing.T, address string) (end func())
	}{
		{"publisher", func(t *testing.T, address string) func() {
			p := newPublisher(t, address, &PublisherConfig{Connection: quick, Unroutable: Accept})
			if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
				t.Error(failed)
			}
			return func() { _ = p.Close() }
		}},
		{"subscriber", func(t *testing.T, address string) func() {
			in := subscribe(t, address, &SubscriberConfig{Connection: quick}, all(1))
			in.waitReady()
			return func() {
				in.end()
				_ = in.waitEnd()
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address, first, _ := twoHosts(t)
			c.begins(t, address)() // what is to be there is
			for bytes := int64(300); ; bytes += 8 {
				cut := first.CutAfter(bytes)
				end := c.begins(t, address)
				ready := false
				select {
				case <-cut:
				default:
					ready = true // with the first: all have been tried
				}
				end()
				if ready {
					return
				}
			}
		})
	}
}

// TestSubscriptionWaitsForTheHostThatMayMend: one host that never will is not the
// end of a subscription, all of them are.
func TestSubscriptionWaitsForTheHostThatMayMend(t *testing.T) {
	t.Parallel()
	c := &consumer{}
	never, away := &tls.CertificateVerificationError{Err: errors.New("x")}, errors.New("connection refused")
	refused := &amqp.Error{Code: amqp.AccessRefused, Server: true}
	for _, tc := range []struct {
		err  failures
		want bool
	}{
		{failures{never, refused}, true}, {failures{never, away}, false}, {failures{away, refused}, false},
	} {
		if got := c.hopeless(tc.err); got != tc.want {
			t.Errorf("%v: hopeless is %v", tc.err, got)
		}
	}
	address, first, _ := twoHosts(t)
	first.Refuse()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(u.User.Username(), "s3cr3t")
	in := subscribe(t, u.String(), &SubscriberConfig{Connection: quick}, all(1))
	p := newPublisher(t, u.String(), &PublisherConfig{Connection: quick})
	err = publishOne(t, p, testMessages("a", 1)[0])
	wantErr(t, err, outbox.ErrUnavailable, "refused", "ACCESS_REFUSED", "; ")
	first.Accept()
	if ended := in.waitEnd(); ended == nil || strings.Contains(ended.Error()+err.Error(), "s3cr3t") {
		t.Errorf("Subscribe returned %v", ended)
	}
}
