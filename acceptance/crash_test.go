package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/worker"
)

// crashPlan is how much is emitted, and what goes wrong meanwhile.
type crashPlan struct {
	messages    int
	pace        time.Duration // between the transactions of one emitter
	relayKills  int
	relayStops  int
	brokerKills int
	serverKills int // of PostgreSQL
	cuts        int
}

const (
	crashRelays   = 3
	crashEmitters = 8
	crashKeys     = 200
	crashWindow   = 200
	crashSettle   = 200
	crashPrefetch = 100
	crashLease    = 2 * time.Second
)

// TestCrash emits while processes are killed, stopped and cut off, and then counts.
// What is counted without faults is the measure for what is counted with them.
func TestCrash(t *testing.T) {
	plans := map[string]crashPlan{
		"NoFaults": {messages: 3000},
		"Faults":   {messages: 8000, pace: 10 * time.Millisecond, relayKills: 3, relayStops: 1, brokerKills: 1, serverKills: 1, cuts: 2},
	}
	if os.Getenv("OUTBOX_SOAK") != "" {
		plans = map[string]crashPlan{
			"NoFaults": {messages: 50_000},
			"Faults":   {messages: 50_000, pace: 10 * time.Millisecond, relayKills: 12, relayStops: 2, brokerKills: 2, serverKills: 1, cuts: 6},
		}
	}
	for name, plan := range plans {
		t.Run(name, func(t *testing.T) { runCrash(t, plan) })
	}
}

func runCrash(t *testing.T, plan crashPlan) {
	c := newCrash(t, plan)
	w := worker.New(rabbitSubscriber(t, c.rabbit.URL(), nil), &worker.Config{
		Queue: "orders", Prefetch: crashPrefetch, Concurrency: 8, Logger: quiet(),
	})
	worker.Handle(w, "order.*", func(_ context.Context, d *worker.Delivery[crashOrder]) error {
		c.ledger.delivered(d.Payload)
		return nil
	})
	t.Cleanup(runWorker(t, w))
	select {
	case <-w.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the worker is not ready")
	}
	for i := range c.relays {
		c.relays[i] = c.startRelay(i)
	}
	var emitters, faults sync.WaitGroup
	for i := range crashEmitters {
		emitters.Go(func() { c.emitMany(i, plan.messages/crashEmitters) })
	}
	faults.Go(c.disturb)
	emitters.Wait()
	faults.Wait()
	c.ledger.judge(t, c)
}

// crash is one run: the servers, the link that is cut, the relays.
type crash struct {
	t        *testing.T
	plan     crashPlan
	postgres *testenv.PostgresServer
	rabbit   *testenv.RabbitMQServer
	link     *testenv.Proxy // between the relays and the broker
	pool     *pgxpool.Pool
	outbox   *outbox.Outbox[pgx.Tx]
	binary   string
	relays   [crashRelays]*exec.Cmd
	ledger   *ledger
	repeats  int // the most that the faults allow
}

func newCrash(t *testing.T, plan crashPlan) *crash {
	c := &crash{t: t, plan: plan, postgres: testenv.StartPostgres(t, nil), rabbit: testenv.StartRabbitMQ(t, nil), ledger: newLedger()}
	c.link = testenv.NewProxy(t, c.rabbit.Addr())
	c.pool = openPool(t, c.postgres.URL(), crashEmitters+4)
	s := pgxstore.New(c.pool, &pgxstore.Config{Logger: quiet()})
	t.Cleanup(func() { _ = s.Close() })
	must(t, s.Migrate(t.Context()))
	_, err := c.pool.Exec(t.Context(), `
		CREATE TABLE account (key text PRIMARY KEY, n integer NOT NULL);
		CREATE TABLE placed (id text PRIMARY KEY, key text NOT NULL, n integer NOT NULL);
		INSERT INTO account SELECT 'k' || i, 0 FROM generate_series(0, `+fmt.Sprint(crashKeys-1)+`) AS i`)
	must(t, err)
	c.outbox = outbox.New(s)
	c.binary = buildProgram(t)
	t.Cleanup(func() {
		for _, cmd := range c.relays {
			if cmd != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		}
	})
	return c
}

// buildProgram builds cmd/outbox.
func buildProgram(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "outbox")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = filepath.Join("..", "cmd", "outbox")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program: %v\n%s", err, out)
	}
	return binary
}

func (c *crash) startRelay(i int) *exec.Cmd {
	cmd := exec.Command(c.binary, "relay",
		"--database-url", c.postgres.URL(), "--broker-url", "amqp://guest:guest@"+c.link.Addr()+"/",
		"--relay-name", fmt.Sprint("relay-", i), "--relay-lease-ttl", crashLease.String(),
		"--relay-window", fmt.Sprint(crashWindow), "--relay-settle-batch", fmt.Sprint(crashSettle))
	if os.Getenv("OUTBOX_TEST_LOG") != "" {
		cmd.Stderr = os.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Errorf("start a relay: %v", err)
	}
	return cmd
}

// disturb does all that the plan has, in random order, with pauses in which work
// goes on.
func (c *crash) disturb() {
	var faults []func()
	add := func(n int, repeats int, fault func()) {
		for range n {
			faults = append(faults, fault)
			c.repeats += repeats
		}
	}
	const sent = crashWindow + crashSettle // by one relay, and not deleted
	add(c.plan.relayKills, sent, c.killRelay)
	add(c.plan.relayStops, sent, c.stopRelay)
	add(c.plan.brokerKills, crashRelays*sent+crashPrefetch, c.killBroker)
	add(c.plan.serverKills, crashRelays*sent, c.killPostgres)
	add(c.plan.cuts, crashRelays*sent, c.cutLink)
	rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, fault := range faults {
		pause(500 * time.Millisecond)
		fault()
	}
}

// pause lets work go on for a random time around d.
func pause(d time.Duration) { time.Sleep(d/2 + rand.N(d)) }

func (c *crash) killRelay() {
	i := rand.IntN(crashRelays)
	c.t.Log("SIGKILL of relay", i)
	_ = c.relays[i].Process.Kill()
	_ = c.relays[i].Wait()
	pause(time.Second)
	c.relays[i] = c.startRelay(i)
}

// stopRelay stops a relay for longer than its lease; the others take its shards
// over meanwhile.
func (c *crash) stopRelay() {
	i := rand.IntN(crashRelays)
	c.t.Log("SIGSTOP of relay", i)
	_ = c.relays[i].Process.Signal(syscall.SIGSTOP)
	time.Sleep(2 * crashLease)
	_ = c.relays[i].Process.Signal(syscall.SIGCONT)
}

func (c *crash) killBroker() {
	c.t.Log("SIGKILL of RabbitMQ")
	c.rabbit.Kill()
	c.rabbit.Start()
}

func (c *crash) killPostgres() {
	c.t.Log("SIGKILL of PostgreSQL")
	c.postgres.Kill()
	c.postgres.Start()
}

// cutLink cuts the relays off in the middle of what they send.
func (c *crash) cutLink() {
	c.t.Log("link cut")
	select {
	case <-c.link.CutAfter(int64(rand.IntN(50_000))):
	case <-time.After(5 * time.Second): // nothing is being sent
		c.link.Cut()
	}
}
