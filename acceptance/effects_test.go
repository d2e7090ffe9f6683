package acceptance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/rabbitmq"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/worker"
)

// fire is a way to handle messages under fire.
type fire string

const (
	throughHandleTx fire = "HandleTx"
	throughGroup    fire = "HandleTx by Group"
	throughHandle   fire = "Handle"
)

// firePlan is how many messages there are, and what goes wrong meanwhile.
type firePlan struct {
	messages    int
	rate        int // a second
	workerKills int
	serverKills int // of PostgreSQL
	brokerKills int
	cuts        int
}

const (
	fireWorkers  = 3
	fireAccounts = 50
	fireQueue    = "payments"
)

// TestEffectsOnce pays into accounts while workers, database and broker are killed
// and links are cut. Each tenth message is sent twice at the same moment. Through
// HandleTx the balances are exact; through Handle they are not, which shows that
// the faults are such as to be noticed.
func TestEffectsOnce(t *testing.T) {
	plan := firePlan{messages: 4000, rate: 500, workerKills: 3, serverKills: 1, brokerKills: 1, cuts: 2}
	if os.Getenv("OUTBOX_SOAK") != "" {
		plan = firePlan{messages: 20_000, rate: 500, workerKills: 15, serverKills: 2, brokerKills: 2, cuts: 6}
	}
	f := newFireplace(t)
	for _, through := range []fire{throughHandleTx, throughGroup, throughHandle} {
		t.Run(string(through), func(t *testing.T) { f.run(t, plan, through) })
	}
}

// fireplace is the servers, and the link between the workers and the broker.
type fireplace struct {
	postgres *testenv.PostgresServer
	rabbit   *testenv.RabbitMQServer
	link     *testenv.Proxy
	pool     *pgxpool.Pool
}

func newFireplace(t *testing.T) *fireplace {
	f := &fireplace{postgres: testenv.StartPostgres(t, nil), rabbit: testenv.StartRabbitMQ(t, nil)}
	f.link = testenv.NewProxy(t, f.rabbit.Addr())
	f.pool = openPool(t, f.postgres.URL(), 4)
	s := pgxstore.New(f.pool, &pgxstore.Config{Logger: quiet()})
	t.Cleanup(func() { _ = s.Close() })
	must(t, s.Migrate(t.Context()))
	_, err := f.pool.Exec(t.Context(), `
		CREATE TABLE account (name text PRIMARY KEY, balance integer NOT NULL);
		CREATE TABLE payment (id text NOT NULL)`)
	must(t, err)
	return f
}

func (f *fireplace) run(t *testing.T, plan firePlan, through fire) {
	_, err := f.pool.Exec(t.Context(), `
		TRUNCATE account, payment, outbox.inbox;
		INSERT INTO account SELECT 'account-' || i, 0 FROM generate_series(0, `+fmt.Sprint(fireAccounts-1)+`) AS i`)
	must(t, err)
	var workers [fireWorkers]*child
	start := func(i int) {
		workers[i] = startChild(t, &childConfig{
			Database: f.postgres.URL(), Broker: "amqp://guest:guest@" + f.link.Addr() + "/", Worker: &workerChild{Fire: through},
		})
	}
	for i := range workers {
		start(i)
	}
	var sending sync.WaitGroup
	disturbed := make(chan struct{})
	sending.Go(func() { f.pay(t, plan, disturbed) })
	f.disturb(t, plan, func() {
		i := rand.IntN(fireWorkers)
		t.Log("SIGKILL of worker", i)
		workers[i].kill()
		pause(200 * time.Millisecond)
		start(i)
	})
	close(disturbed)
	sending.Wait()
	f.judge(t, plan, through)
	for _, w := range workers {
		w.kill()
	}
}

// pay sends the messages, each until it is confirmed. The last of them it sends
// slowly, so that there is work until all faults are done.
func (f *fireplace) pay(t *testing.T, plan firePlan, disturbed <-chan struct{}) {
	p, err := rabbitmq.NewPublisher(f.rabbit.URL(), &rabbitmq.PublisherConfig{Connection: rabbitConnection})
	if err != nil {
		t.Error(err)
		return
	}
	defer p.Close()
	failed := make(chan *outbox.Message, 2*plan.messages)
	var open atomic.Int64
	send := func(m *outbox.Message) {
		open.Add(1)
		p.Publish(context.Background(), m, func(err error) {
			if err != nil {
				failed <- m // without an answer it may be there, and comes twice
			}
			open.Add(-1)
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for sent, ticks := 0, 0; sent < plan.messages; ticks++ {
		<-tick.C
		n := min(max(1, plan.rate/100), plan.messages-sent)
		if isOpen(disturbed) && sent > plan.messages*3/4 {
			n = 1
			if ticks%5 > 0 {
				continue
			}
		}
		for range n {
			m := payment(sent)
			send(m)
			if sent%10 == 0 {
				send(m)
			}
			sent++
		}
	}
	for open.Load() > 0 || len(failed) > 0 {
		select {
		case m := <-failed:
			time.Sleep(time.Millisecond)
			send(m)
		case <-tick.C:
		}
	}
}

func isOpen(c <-chan struct{}) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

func payment(i int) *outbox.Message {
	return &outbox.Message{
		ID: fmt.Sprint("payment-", i), Topic: "payment.made", ContentType: outbox.ContentTypeJSON,
		Payload: fmt.Appendf(nil, `"account-%d"`, i%fireAccounts),
	}
}

// disturb does all that the plan has, in random order, with pauses in which work
// goes on.
func (f *fireplace) disturb(t *testing.T, plan firePlan, killWorker func()) {
	var faults []func()
	add := func(n int, fault func()) {
		for range n {
			faults = append(faults, fault)
		}
	}
	add(plan.workerKills, killWorker)
	add(plan.serverKills, func() {
		t.Log("SIGKILL of PostgreSQL")
		f.postgres.Kill()
		f.postgres.Start()
	})
	add(plan.brokerKills, func() {
		t.Logf("SIGKILL of RabbitMQ with %d messages in its delay queues", f.waiting(t))
		f.rabbit.Kill()
		f.rabbit.Start()
	})
	add(plan.cuts, func() {
		t.Log("links cut")
		select {
		case <-f.link.CutAfter(int64(rand.IntN(20_000))):
		case <-time.After(5 * time.Second):
			f.link.Cut()
		}
	})
	rand.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, fault := range faults {
		pause(700 * time.Millisecond)
		fault()
	}
}

// waiting waits until there are messages in the delay queues and returns how many.
func (f *fireplace) waiting(t *testing.T) (n int) {
	t.Helper()
	eventually(t, "messages that wait for a retry", func() (bool, string) {
		n = 0
		for _, delay := range []string{"200ms", "1s"} {
			n += max(0, queueLength(t, f.rabbit.URL(), fireQueue+".retry."+delay))
		}
		return n > 0, "none"
	})
	return n
}

// judge waits until every message has had its effect, and nothing is under way, and
// compares.
func (f *fireplace) judge(t *testing.T, plan firePlan, through fire) {
	t.Helper()
	var total, distinct int
	last := time.Now()
	for {
		var now, ids int
		err := f.pool.QueryRow(context.Background(), `SELECT count(*), count(DISTINCT id) FROM payment`).Scan(&now, &ids)
		if err == nil && now != total {
			last = time.Now()
		}
		total, distinct = now, ids
		if idle := time.Since(last); idle > 3*time.Second && distinct == plan.messages || idle > patience {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	var balance, wrong int
	must(t, f.pool.QueryRow(context.Background(), `SELECT sum(balance), count(*) FILTER (WHERE balance <> $1) FROM account`,
		plan.messages/fireAccounts).Scan(&balance, &wrong))
	t.Logf("%s: %d messages, balances of %d in all, %d effects, %d duplicates, %d lost", through, plan.messages, balance, total, total-distinct, plan.messages-distinct)
	if distinct != plan.messages {
		t.Errorf("%d messages were lost", plan.messages-distinct)
	}
	if through != throughHandle && (total != plan.messages || balance != plan.messages || wrong > 0) {
		t.Errorf("%d effects and balances of %d, want %d; %d accounts are wrong", total, balance, plan.messages, wrong)
	}
	if through == throughHandle && total == distinct {
		t.Error("there are no duplicates without an inbox: the faults show nothing")
	}
}

// runUnderFire is the worker's process.
func (c *childConfig) runUnderFire(ctx context.Context) (err error) {
	pool, err := pgxpool.New(ctx, c.Database)
	if err != nil {
		return err
	}
	defer pool.Close()
	s := pgxstore.New(pool, &pgxstore.Config{Logger: quiet()})
	defer func() { err = errors.Join(err, s.Close()) }()
	sub, err := openSubscriber(c.Broker)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	w := worker.New(sub, &worker.Config{
		Queue: fireQueue, Concurrency: 8, Logger: quiet(),
		Retries: worker.Retries{Delays: []time.Duration{200 * time.Millisecond, time.Second}, MaxAttempts: 100},
	})
	switch c.Worker.Fire {
	case throughHandleTx:
		worker.HandleTx(w, s, "payment.*", payIn)
	case throughGroup:
		worker.HandleTx(w, s.Group(20), "payment.*", payIn)
	default:
		worker.Handle(w, "payment.*", func(ctx context.Context, d *worker.Delivery[string]) error {
			var fault error
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				fault = payIn(ctx, tx, d)
				return nil
			})
			return errors.Join(err, fault)
		})
	}
	go func() {
		<-w.Ready()
		fmt.Println("started")
	}()
	return w.Run(ctx)
}

// payIn fails now and then when it has written.
func payIn(ctx context.Context, tx pgx.Tx, d *worker.Delivery[string]) error {
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE account SET balance = balance + 1 WHERE name = $1`, d.Payload)
	batch.Queue(`INSERT INTO payment (id) VALUES ($1)`, d.ID)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	if rand.IntN(20) == 0 {
		return errNoLuck
	}
	return nil
}
