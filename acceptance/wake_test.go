package acceptance

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// soon is far below the poll interval of a relay that is to be woken, and below
// the ten seconds after which the PostgreSQL listener looks by itself.
const soon = 5 * time.Second

// patientRelay does not look by itself while a test runs, not even when it renews
// its leases.
func patientRelay(hooks ...relay.Hook) relay.Config {
	return relay.Config{PollInterval: time.Hour, SweepInterval: -1, LeaseTTL: time.Hour, Hooks: hooks}
}

// emitters are the ways to commit a message without a relay in the same process.
func (s *system) emitters() map[string]func(t *testing.T, id string) {
	return map[string]func(t *testing.T, id string){
		"InTx": func(t *testing.T, id string) {
			must(t, s.inTx(func(tx transaction) error { return place(tx, id, "a") }))
		},
		"EmitAndCommit": func(t *testing.T, id string) {
			tx, err := s.begin()
			must(t, err)
			must(t, place(tx, id, "a"))
			must(t, tx.commit())
		},
		"PlainInsert": func(t *testing.T, id string) {
			execute(t, s, insertSQL(s.database), "plain", "a", fmt.Sprintf(`{"ID": %q}`, id))
		},
	}
}

func TestK04_EmitWakesIdleRelay(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		reads := newReadWatch()
		s.startRelay(t, patientRelay(reads))
		n := 0
		for name, emit := range s.emitters() {
			// Several in a row, so that no look that comes anyhow can be the one.
			const rounds = 3
			fastest := time.Hour
			for range rounds {
				reads.idle(t)
				n++
				began := time.Now()
				emit(t, fmt.Sprint(n))
				r.awaitWithin(n, soon)
				fastest = min(fastest, r.deliveries()[n-1].at.Sub(began))
			}
			if fastest > time.Second {
				t.Errorf("%s: delivered after %v at the fastest, want well under a second", name, fastest)
			}
			t.Logf("%s: %v from before the transaction to the handler", name, fastest)
		}
	})
}

// listener is the session by which a store of its own is notified, through a proxy.
type listener struct {
	db    *postgres
	proxy *testenv.Proxy
	store *pgxstore.Store
	close func()
}

const listenerName = "listener"

func newListener(t *testing.T, db *postgres) *listener {
	t.Helper()
	proxy, address := newLink(t, db.databaseURL())
	u, err := url.Parse(address)
	must(t, err)
	query := u.Query()
	query.Set("application_name", listenerName)
	u.RawQuery = query.Encode()
	st, closeStore, err := openPostgres(db.databaseURL(), &pgxstore.Config{ListenURL: u.String(), Logger: quiet()})
	must(t, err)
	return &listener{db, proxy, st, closeStore}
}

// await waits until the session listens, or until there is none.
func (l *listener) await(t *testing.T, listening bool) {
	t.Helper()
	eventually(t, fmt.Sprintf("listening to be %v", listening), func() (bool, string) {
		var n int
		must(t, l.db.sql().QueryRow(`SELECT count(*) FROM pg_stat_activity
			WHERE application_name = $1 AND datname = current_database() AND query LIKE 'LISTEN%' AND state = 'idle'`, listenerName).Scan(&n))
		return (n > 0) == listening, fmt.Sprintf("%d listening sessions", n)
	})
}

// cut ends the session and keeps it from coming back.
func (l *listener) cut(t *testing.T) {
	t.Helper()
	l.proxy.Refuse()
	l.proxy.Cut()
	l.await(t, false)
}

// listeningRelay starts a relay on RabbitMQ whose listener can be cut.
func listeningRelay(t *testing.T, config relay.Config) (*system, *listener, *recorder) {
	t.Helper()
	db := newPostgres(t)
	s := newSystem(db, newRabbit(t, false))
	r := s.startWorker(t)
	l := newListener(t, db)
	p, err := openPublisher(s.address)
	must(t, err)
	runRelay(t, l.store, p, config, l.close)
	l.await(t, true)
	return s, l, r
}

func TestK05_WakeUpLostOrListenerCut(t *testing.T) {
	t.Parallel()
	t.Run("FoundByPolling", func(t *testing.T) {
		t.Parallel()
		config := patientRelay()
		config.PollInterval = 300 * time.Millisecond
		s, l, r := listeningRelay(t, config)
		// The notification is not sent.
		n := 0
		for range 3 {
			n++
			s.commitSilently(t, fmt.Sprint(n))
			r.awaitWithin(n, soon)
		}
		// There is nobody to receive it.
		l.cut(t)
		for _, emit := range s.emitters() {
			n++
			emit(t, fmt.Sprint(n))
			r.awaitWithin(n, soon)
		}
		l.await(t, false)
	})
	t.Run("ListenerComesBack", func(t *testing.T) {
		t.Parallel()
		reads := newReadWatch()
		s, l, r := listeningRelay(t, patientRelay(reads))
		n := 0
		ends := map[string]func(){
			"link cut":           func() { l.proxy.Cut() },
			"backend terminated": func() { l.terminate(t) },
		}
		for name, end := range ends {
			l.proxy.Refuse()
			end()
			l.await(t, false)
			reads.idle(t)
			n++
			s.commitSilently(t, fmt.Sprint(n))
			l.proxy.Accept()
			r.await(n) // whatever was missed is found when it is back
			l.await(t, true)
			for range 3 {
				reads.idle(t)
				n++
				s.emitters()["EmitAndCommit"](t, fmt.Sprint(n))
				r.awaitWithin(n, soon)
			}
			t.Logf("%s: the listener came back", name)
		}
	})
}

func (l *listener) terminate(t *testing.T) {
	t.Helper()
	execute(t, l.db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = $1 AND datname = current_database()`, listenerName)
}

// commitSilently commits an order whose notification is lost: the transaction asks
// for none, and nobody calls Wake.
func (s *system) commitSilently(t *testing.T, id string) {
	t.Helper()
	tx, err := s.begin()
	must(t, err)
	must(t, tx.exec(`SET LOCAL outbox.wake = 'off'`))
	must(t, place(tx, id, "a"))
	must(t, tx.commit())
}
