package acceptance

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// allowTopics makes a user of the virtual host who may write to topics that match
// only, and returns the URL for it.
func allowTopics(t testing.TB, address, write string) string {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	vhost := strings.TrimPrefix(u.Path, "/")
	user := "user-" + vhost
	server := testenv.RabbitMQ(t)
	server.Eval(fmt.Sprintf(`ok = rabbit_auth_backend_internal:add_user(<<"%[1]s">>, <<"secret">>, <<"testenv">>),
		ok = rabbit_auth_backend_internal:set_permissions(<<"%[1]s">>, <<"%[2]s">>, <<".*">>, <<".*">>, <<".*">>, <<"testenv">>),
		ok = rabbit_auth_backend_internal:set_topic_permissions(<<"%[1]s">>, <<"%[2]s">>, <<"outbox">>, <<"%[3]s">>, <<".*">>, <<"testenv">>).`,
		user, vhost, write))
	t.Cleanup(func() {
		server.Eval(fmt.Sprintf(`rabbit_auth_backend_internal:delete_user(<<"%s">>, <<"testenv">>).`, user))
	})
	u.User = url.UserPassword(user, "secret")
	return u.String()
}

// TestPoisonThatClosesTheChannel: RabbitMQ answers a message whose topic the user has
// no right to by closing the channel, with all that is in flight. That message
// alone uses up its attempts and dies; the others arrive.
func TestPoisonThatClosesTheChannel(t *testing.T) {
	t.Parallel()
	const keys, each, attempts = 100, 5, 3
	s := newSystem(newPostgres(t), newRabbit(t, false))
	p := s.database.(*postgres)
	r := s.startWorker(t) // makes the exchange, too
	s.address = allowTopics(t, s.address, "^order[.]")
	must(t, p.inTx(func(tx transaction) error {
		return tx.emit(outbox.Event{Topic: "forbidden.one", Key: "key-0", Payload: 1}, outbox.Event{Topic: "forbidden.two", Payload: 2})
	}))
	s.placeOrders(t, "all", keys, each)
	began := time.Now()
	theRelay := s.startRelay(t, relay.Config{
		Window: 50, MaxAttempts: attempts, RefusedBackoff: 100 * time.Millisecond, MaxRefusedBackoff: 200 * time.Millisecond,
	})
	repeats := s.judge(t, r)
	t.Logf("%d messages and their poison in %v, %d repeats", keys*each, time.Since(began).Round(time.Millisecond), repeats)
	theRelay.alive()
	dead := listAll(t, p.store, store.Query{State: store.Dead})
	if len(dead) != 2 {
		t.Fatalf("%d dead letters, want the two that are forbidden", len(dead))
	}
	for _, d := range dead {
		if !strings.HasPrefix(d.Topic, "forbidden.") || d.Reason != store.Exhausted || d.Attempts != attempts || !strings.Contains(d.LastError, "ACCESS_REFUSED") {
			t.Errorf("dead letter %s: reason %q, %d attempts, error %q; want a forbidden one, exhausted after %d", d.Topic, d.Reason, d.Attempts, d.LastError, attempts)
		}
	}
	stats, err := p.store.Stats(context.Background())
	must(t, err)
	if stats.Pending != 0 {
		t.Errorf("%d messages are pending, want none", stats.Pending)
	}
}
