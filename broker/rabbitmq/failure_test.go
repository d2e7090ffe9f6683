package rabbitmq

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

// quick is a connection that is tried again soon.
var quick = Connection{ReconnectMin: 10 * time.Millisecond, ReconnectMax: 100 * time.Millisecond}

func TestKilledBrokerKeepsWhatItConfirmed(t *testing.T) {
	t.Parallel()
	for _, queueType := range []QueueType{Quorum, Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			server := testenv.StartRabbitMQ(t, nil)
			address := server.NewVHost(t)
			subConfig := &SubscriberConfig{Connection: quick, QueueType: queueType}
			declared(t, address, subConfig)
			p := newPublisher(t, address, &PublisherConfig{Connection: quick})

			const n = 20_000
			var confirmed atomic.Int64
			outcomes := make([]outcome, n)
			answers := make(chan struct{}, n)
			slots := make(chan struct{}, 1000)
			go func() {
				for i, m := range testMessages("a", n) {
					slots <- struct{}{}
					outcomes[i].m = m
					p.Publish(context.Background(), m, func(err error) {
						if err == nil {
							confirmed.Add(1)
						}
						outcomes[i].err = err
						<-slots
						answers <- struct{}{}
					})
				}
			}()
			for confirmed.Load() < n/10 {
				time.Sleep(time.Millisecond)
			}
			server.Kill()
			for range n {
				select {
				case <-answers:
				case <-time.After(patience):
					t.Fatalf("%d of %d messages are not answered", n-len(answers), n)
				}
			}
			server.Start()

			want, again := map[string]bool{}, []*outbox.Message{}
			for _, o := range outcomes {
				if o.err == nil {
					want[o.m.ID] = true
				} else {
					wantErr(t, o.err, outbox.ErrUnavailable)
					again = append(again, o.m)
				}
			}
			if len(again) == 0 {
				t.Fatal("the kill came too late")
			}
			t.Logf("%d messages were confirmed before the kill", len(want))
			in := subscribe(t, address, subConfig, all(1000))
			in.collect(want)
			// The publisher comes back by itself.
			if failed := publishAgain(t, p, again[:100]); failed != nil {
				t.Fatal(failed)
			}
		})
	}
}

func TestCutInMidWindow(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	address := server.NewVHost(t)
	in := subscribe(t, address, nil, all(1000))
	in.waitReady()
	p := newPublisher(t, via(t, address, proxy), &PublisherConfig{Connection: quick})
	if failed := publishAgain(t, p, testMessages("first", 1)); failed != nil {
		t.Fatal(failed)
	}
	for _, bytes := range []int64{1, 1000, 50_000, 150_001, 300_000} {
		cut := proxy.CutAfter(bytes)
		msgs := testMessages("a", 2000)
		want, again := map[string]bool{}, []*outbox.Message{}
		for _, o := range publishAsync(t, p, 1000, msgs) {
			want[o.m.ID] = true
			if o.err != nil {
				wantErr(t, o.err, outbox.ErrUnavailable)
				again = append(again, o.m)
			}
		}
		<-cut
		if len(again) == 0 {
			t.Errorf("cut after %d bytes: all messages were confirmed", bytes)
		}
		if failed := publishAgain(t, p, again); failed != nil {
			t.Fatal(failed)
		}
		in.collect(want)
	}
}

// Everything outstanding is answered before a new message is taken, and a connection
// that is down answers at once.
func TestLossAnswersAllThenRefusesAtOnce(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	p := newPublisher(t, via(t, server.NewVHost(t), proxy), &PublisherConfig{
		Connection: Connection{ReconnectMin: time.Hour, ReconnectMax: time.Hour}, Unroutable: Accept,
	})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	proxy.Stall()
	answered := make(chan error, 100)
	for _, m := range testMessages("a", 100) {
		p.Publish(context.Background(), m, func(err error) { answered <- err })
	}
	proxy.Cut()
	for range 100 {
		select {
		case err := <-answered:
			wantErr(t, err, outbox.ErrUnavailable)
		case <-time.After(patience):
			t.Fatal("messages are not answered")
		}
	}
	// The next attempt to connect is an hour away.
	wantErr(t, publishOne(t, p, testMessages("a", 1)[0]), outbox.ErrUnavailable)
}

// A message that Publish still reads is not answered, since its owner may reuse it then.
func TestNoAnswerWhileTheMessageIsWritten(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	p := newPublisher(t, via(t, server.NewVHost(t), proxy), &PublisherConfig{Connection: quick, Unroutable: Accept})
	if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
		t.Fatal(err)
	}
	proxy.Stall()
	answered := make(chan error, 1)
	p.Publish(context.Background(), testMessages("a", 1)[0], func(err error) { answered <- err })
	p.writing.Lock() // as Publish does
	proxy.Cut()
	select {
	case err := <-answered:
		p.writing.Unlock()
		t.Fatalf("answered %v too early", err)
	case <-time.After(200 * time.Millisecond):
	}
	p.writing.Unlock()
	wantErr(t, <-answered, outbox.ErrUnavailable)
}

func TestBrokerThatComesLater(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	address := via(t, server.NewVHost(t), proxy)
	proxy.Refuse()
	p := newPublisher(t, address, &PublisherConfig{Connection: quick})
	in := subscribe(t, address, &SubscriberConfig{Connection: quick}, all(1))
	wantErr(t, publishOne(t, p, testMessages("a", 1)[0]), outbox.ErrUnavailable, "connect")
	proxy.Accept()
	in.waitReady()
	if failed := publishAgain(t, p, testMessages("a", 1)); failed != nil {
		t.Fatal(failed)
	}
	_ = in.next().Settle(outbox.Settlement{Outcome: outbox.Ack})
}

func TestConfirmTimeoutEndsTheConnection(t *testing.T) {
	t.Parallel()
	patient := quick
	patient.Heartbeat = 10 * time.Minute
	// What is sent fills all buffers on the way, so that Publish is stuck in writing.
	for name, fill := range map[string]func(*outbox.Message){
		"payloads": func(m *outbox.Message) { m.Payload = make([]byte, 100_000) },
		"headers":  func(m *outbox.Message) { m.Headers = map[string]string{"x": strings.Repeat("v", 100_000)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.RabbitMQ(t)
			proxy := testenv.NewProxy(t, server.Addr())
			p := newPublisher(t, via(t, server.NewVHost(t), proxy), &PublisherConfig{
				Connection: patient, Unroutable: Accept, ConfirmTimeout: 300 * time.Millisecond,
			})
			if err := publishOne(t, p, testMessages("a", 1)[0]); err != nil {
				t.Fatal(err)
			}
			proxy.Stall()
			msgs := testMessages("a", 200)
			for _, m := range msgs {
				fill(m)
			}
			outcomes := publishAsync(t, p, 1000, msgs)
			for _, o := range outcomes {
				wantErr(t, o.err, outbox.ErrUnavailable)
			}
			wantErr(t, outcomes[0].err, errConfirmTimeout)
			proxy.Resume()
			if failed := publishAgain(t, p, testMessages("a", 10)); failed != nil {
				t.Fatal(failed)
			}
		})
	}
}

func TestCloseWhileConnecting(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	proxy.Stall() // accepts and says nothing
	address := via(t, server.NewVHost(t), proxy)
	slow := Connection{DialTimeout: time.Hour}
	p := newPublisher(t, address, &PublisherConfig{Connection: slow})
	answered := make(chan error, 1)
	go p.Publish(context.Background(), testMessages("a", 1)[0], func(err error) { answered <- err })
	in := subscribe(t, address, &SubscriberConfig{Connection: slow}, all(1))
	for deadline := time.Now().Add(patience); proxy.Connections() < 2 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, <-answered, outbox.ErrUnavailable)
	in.end()
	if err := in.waitEnd(); err != nil {
		t.Errorf("Subscribe returned %v", err)
	}
}

func TestWrongCredentialsAreReported(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	address := server.NewVHost(t)
	for name, c := range map[string]struct{ address, want string }{
		"password":      {withUser(t, address, "guest", "s3cr3t"), "ACCESS_REFUSED"},
		"virtual host":  {withPath(t, address, "/no-such-vhost"), "NOT_ALLOWED"},
		"no permission": {withUser(t, address, mustUser(t, server, address), "pw"), "NOT_ALLOWED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := subscribe(t, c.address, nil, all(1)).waitEnd()
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("Subscribe returned %v, want one that says %s and no password", err, c.want)
			}
			err = publishOne(t, newPublisher(t, c.address, nil), testMessages("a", 1)[0])
			wantErr(t, err, outbox.ErrUnavailable, c.want)
			if strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the error %q has the password", err)
			}
		})
	}
}

// A connection that breaks during the handshake is no wrong password, though the
// library says so. A whole subscription takes some 480 bytes.
func TestBrokenHandshakeIsRetried(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	address := server.NewVHost(t)
	for _, bytes := range []int64{4, 8, 100, 200, 300, 400} {
		cut := proxy.CutAfter(bytes)
		in := subscribe(t, via(t, address, proxy), &SubscriberConfig{Connection: quick}, all(1))
		<-cut
		in.waitReady()
		in.end()
		if err := in.waitEnd(); err != nil {
			t.Errorf("cut after %d bytes: %v", bytes, err)
		}
	}
}

func TestStaleSettle(t *testing.T) {
	t.Parallel()
	server := testenv.RabbitMQ(t)
	proxy := testenv.NewProxy(t, server.Addr())
	address := server.NewVHost(t)
	in := subscribe(t, via(t, address, proxy), &SubscriberConfig{Connection: quick}, all(2))
	in.waitReady()
	p := newPublisher(t, address, nil)
	msgs := testMessages("a", 2)
	if failed := publishAgain(t, p, msgs); failed != nil {
		t.Fatal(failed)
	}
	stale := []*outbox.Received{in.next(), in.next()}
	proxy.Cut()
	in.waitReady()
	fresh := []*outbox.Received{in.next(), in.next()}
	// Their delivery tags are 1 and 2 again.
	for _, r := range stale {
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); !errors.Is(err, errStale) {
			t.Errorf("settling on the lost connection: %v, want %v", err, errStale)
		}
	}
	for _, r := range fresh {
		if !r.Redelivered {
			t.Errorf("message %s is not marked as redelivered", r.ID)
		}
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Requeue}); err != nil {
			t.Error(err)
		}
		if err := r.Settle(outbox.Settlement{Outcome: outbox.Ack}); !errors.Is(err, errSettled) {
			t.Errorf("settling twice: %v, want %v", err, errSettled)
		}
	}
	in.collect(map[string]bool{msgs[0].ID: true, msgs[1].ID: true})
}

func withUser(t *testing.T, rawURL, user, password string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

func withPath(t *testing.T, rawURL, path string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = path
	return u.String()
}
