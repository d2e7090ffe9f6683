package acceptance

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/relay"
)

func TestK19_RelayKilledBeforeAcknowledgement(t *testing.T) {
	const keys, each = 100, 3
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		link, address := newDeafLink(t, s.address)
		config := &relay.Config{Window: 1000, LeaseTTL: time.Second}
		relayProcess := startChild(t, &childConfig{Database: s.databaseURL(), Broker: address, Relay: &relayConfig{Config: *config}})
		s.placeOrders(t, "before", keys, each)
		r.await(keys * each)
		s.awaitPending(t, 0)

		link.hold()
		s.placeOrders(t, "during", keys, each)
		r.await(keys*each + keys)                                                    // of each key one is in flight
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); { // many settling delays
			if rows := pending(t, s); len(rows) != keys*each {
				t.Fatalf("%d rows are in the outbox, want %d: the broker has some, but confirmed none", len(rows), keys*each)
			}
		}
		relayProcess.kill()
		next := s.startRelay(t, *config)
		repeats := s.judge(t, r)
		t.Logf("%d repeats", repeats)
		// JetStream knows the ids and drops the repeats.
		if _, ok := s.broker.(*rabbit); ok && repeats != keys {
			t.Errorf("%d messages were delivered again, want the %d that were in flight", repeats, keys)
		}
		if repeats > keys {
			t.Errorf("%d messages were delivered again, more than the %d in flight", repeats, keys)
		}
		if n := next.Stats().Confirmed; n != keys*each {
			t.Errorf("the second relay sent %d messages, want %d", n, keys*each)
		}
	})
}

func TestK20_BrokerDownForAWhile(t *testing.T) {
	const keys, each = 20, 5
	eachPrivateSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		relays := s.startRelays(t, 2, func(int) relay.Config { return relay.Config{} })
		s.placeOrders(t, "before", keys, each)
		s.judge(t, r)

		s.kill()
		s.placeOrders(t, "during", keys, each)
		// Long enough for every relay to have tried, and to have tried again.
		failed := func(one *relayRun) int64 { return one.Stats().Failed }
		eventually(t, "failures to be counted", func() (bool, string) {
			sum := failed(relays[0]) + failed(relays[1])
			return sum > keys+10, fmt.Sprintf("%d", sum)
		})
		s.placeOrders(t, "late", keys, each)
		rows := pending(t, s)
		if len(rows) != 2*keys*each {
			t.Errorf("%d rows are in the outbox, want %d", len(rows), 2*keys*each)
		}
		for _, row := range rows {
			if row.attempts != 0 || row.lastError != "" {
				t.Fatalf("a row has %d attempts, last error %q: an outage is no attempt", row.attempts, row.lastError)
			}
		}
		for _, one := range relays {
			one.alive()
		}
		s.start()
		repeats := s.judge(t, r)
		t.Logf("%d repeats", repeats)
		for _, one := range relays {
			one.alive()
		}
	})
}

func TestD10_BrokerAwayOrLinkCut(t *testing.T) {
	eachPrivateSystem(t, awayOrCut)
	t.Run("BackOff", func(t *testing.T) {
		for _, scheme := range []string{"amqp", "nats", "stomp"} {
			t.Run(scheme, func(t *testing.T) {
				t.Parallel()
				wantBackOff(t, scheme)
			})
		}
	})
}

// awayOrCut has the relay lose its link in mid-batch, the broker itself, and the way to
// it, while orders are placed.
func awayOrCut(t *testing.T, s *system) {
	const keys = 20
	link, address := newLink(t, s.address)
	s.address = address
	r := s.startWorker(t)
	theRelay := s.startRelay(t, relay.Config{})
	stop := s.keepPlacing(t, r, keys)
	r.await(10 * keys)
	for i := range 10 { // in the middle of a batch, mostly of a message
		select {
		case <-link.CutAfter(int64(3000 + 777*i)):
		case <-time.After(patience):
			t.Fatalf("nothing is sent: the link was not cut within %v", patience)
		}
		r.await(r.distinct() + keys)
	}
	s.kill()
	s.start()
	r.await(r.distinct() + 5*keys)

	link.Refuse()
	link.Cut()
	before := theRelay.Stats().Failed
	eventually(t, "failures to be counted", func() (bool, string) {
		n := theRelay.Stats().Failed - before
		return n > 5, fmt.Sprint(n)
	})
	link.Accept()
	r.await(r.distinct() + 5*keys)
	theRelay.alive()
	stop()
	t.Logf("%d repeats", s.judge(t, r))
}

// wantBackOff counts the attempts to connect to a broker that ends each one.
func wantBackOff(t *testing.T, scheme string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	u := url.URL{Scheme: scheme, Host: listener.Addr().String()}
	opened := make(chan outbox.Publisher, 1)
	go func() {
		p, err := openPublisher(u.String())
		if err != nil {
			t.Error(err)
		}
		opened <- p
	}()
	const attempts = 20
	var gaps []time.Duration
	last := time.Now()
	for range attempts {
		must(t, listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
		conn, err := listener.Accept()
		if err != nil {
			t.Fatalf("no attempt for %v: %v", patience, err)
		}
		gaps = append(gaps, time.Since(last))
		last = time.Now()
		_ = conn.Close()
	}
	t.Logf("gaps %v", gaps)
	sum := time.Duration(0)
	for _, gap := range gaps[1:] {
		sum += gap
	}
	// With the least that chance allows, and without waiting for longer than the
	// maximum but for a busy machine.
	if least := attempts * reconnectMax / 10; sum < least {
		t.Errorf("%d attempts in %v, want them spread over %v at least", attempts, sum, least)
	}
	late := slices.Clone(gaps[attempts/2:])
	slices.Sort(late)
	if median := late[len(late)/2]; median > 2*reconnectMax {
		t.Errorf("the median of the later gaps is %v, want at most %v", median, reconnectMax)
	}
	if spread := late[len(late)-1] - late[0]; spread < reconnectMax/20 {
		t.Errorf("the later gaps differ by %v, want jitter", spread)
	}
	_ = (<-opened).Close()
}

func TestD23_MessagesSurviveBrokerRestart(t *testing.T) {
	const keys, each = 50, 10
	eachPrivateSystem(t, func(t *testing.T, s *system) {
		subscribers := map[string]func() outbox.Subscriber{"all": func() outbox.Subscriber { return s.subscriber(t) }}
		if b, ok := s.broker.(*rabbit); ok {
			// A quorum queue keeps everything; a classic one what is persistent.
			subscribers["classic"] = func() outbox.Subscriber {
				return rabbitSubscriber(t, b.brokerURL(), &rabbitmq.SubscriberConfig{QueueType: rabbitmq.Classic})
			}
		}
		for queue, subscriber := range subscribers {
			startWorker(t, subscriber(), queue, "#").stop() // makes the queue
		}
		r := s.startRelay(t, relay.Config{})
		s.placeOrders(t, "kept", keys, each)
		s.awaitPending(t, 0) // all are confirmed
		r.stop()
		s.kill()
		s.start()
		for queue, subscriber := range subscribers {
			t.Run(queue, func(t *testing.T) { s.wantNoRepeats(t, startWorker(t, subscriber(), queue, "#")) })
		}
	})
}
