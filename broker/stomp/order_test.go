package stomp

import (
	"fmt"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
)

// A queue in order that is bound by several topics keeps its order when its only member
// ends with messages that it has not settled, and comes back. And the member has no more
// than its Prefetch meanwhile.
func TestOrderOfSeveralTopicsOutlivesTheMember(t *testing.T) {
	t.Parallel()
	const n, prefetch = 40, 10
	_, address := broker(t)
	for _, queueType := range []QueueType{Quorum, Classic} {
		t.Run(string(queueType), func(t *testing.T) {
			t.Parallel()
			topic := "of." + string(queueType)
			config := &SubscriberConfig{Connection: quick, QueueType: queueType}
			s := outbox.Subscription{Queue: string(queueType), Topics: []string{topic, "x.1", "x.2", "x.3"}, Prefetch: prefetch, InOrder: true}
			in := listen(t, address, config, s, nil)
			in.waitReady()
			if failed := publishAgain(t, newPublisher(t, address, nil), testMessages(topic, n)); failed != nil {
				t.Fatal(failed)
			}
			const rounds, settled = 5, 3
			for round := range rounds {
				open := []*outbox.Received{}
				for range prefetch {
					open = append(open, in.next())
				}
				if len(in.got) > 0 {
					t.Errorf("more than %d messages are unsettled", prefetch)
				}
				wantKeys(t, open, round*settled)
				for _, r := range open[:settled] {
					mustSettle(t, r, acked)
				}
				in.end()
				for _, r := range open[settled:] {
					mustSettle(t, r, outbox.Settlement{Outcome: outbox.Requeue})
				}
				in.stopWith(outbox.Requeue)
				in = listen(t, address, config, s, nil)
			}
			for i := rounds * settled; i < n; i++ {
				r := in.next()
				wantKeys(t, []*outbox.Received{r}, i)
				mustSettle(t, r, acked)
			}
		})
	}
}

// wantKeys wants keys that count from first.
func wantKeys(t *testing.T, got []*outbox.Received, first int) {
	t.Helper()
	for i, r := range got {
		if want := fmt.Sprint(first + i); r.Key != want {
			t.Fatalf("got message %s, want %s", r.Key, want)
		}
	}
}

// An exchange that was deleted and made again has lost its bindings. A member that
// connects again makes them anew: it must not say that it is ready, and get nothing.
func TestBindingsAreMadeAgain(t *testing.T) {
	t.Parallel()
	const destination = "/exchange/ours/{topic}"
	for name, inOrder := range map[string]bool{"competing": false, "in order": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, address := broker(t)
			exchange := fmt.Sprintf(`rabbit_misc:r(<<"%s">>, exchange, <<"ours">>)`, vhostOf(address))
			create := fmt.Sprintf(`rabbit_exchange:declare(%s, topic, true, false, false, [], <<"test">>).`, exchange)
			server.Eval(create)
			proxy := testenv.NewProxy(t, server.STOMPAddr())
			s := everything(5)
			s.InOrder, s.Topics = inOrder, []string{"a", "b"}
			in := listen(t, via(t, address, proxy), &SubscriberConfig{Connection: quick, Destination: destination}, s, nil)
			in.waitReady()
			server.Eval(fmt.Sprintf(`rabbit_exchange:delete(%s, false, <<"test">>).`, exchange))
			server.Eval(create)
			proxy.Cut()
			in.waitReady()
			p := newPublisher(t, address, &PublisherConfig{Destination: destination})
			for _, topic := range s.Topics {
				if failed := publishAgain(t, p, testMessages(topic, 1)); failed != nil {
					t.Fatal(failed)
				}
				r := in.next()
				if r.Topic != topic {
					t.Errorf("got topic %s, want %s", r.Topic, topic)
				}
				mustSettle(t, r, acked)
			}
		})
	}
}
