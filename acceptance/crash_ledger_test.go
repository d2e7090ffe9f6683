package acceptance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outbox-go/outbox"
)

// crashOrder is the message: the n-th order of a key, by a counter that is taken
// under the lock of the key's row before the emit.
type crashOrder struct {
	ID  string `json:"id"`
	Key string `json:"key"`
	N   int    `json:"n"`
}

// ledger keeps what was delivered, and counts what has been emitted.
type ledger struct {
	mu         sync.Mutex
	deliveries []crashOrder
	last       time.Time
	committed  int
	rolledBack int
	unanswered int
}

func newLedger() *ledger { return &ledger{last: time.Now()} }

func (l *ledger) delivered(o crashOrder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deliveries = append(l.deliveries, o)
	l.last = time.Now()
}

var errOnPurpose = errors.New("rolled back on purpose")

// emitMany places orders until n of its transactions have committed. Those of
// which the commit was not answered are judged by their business row afterwards.
func (c *crash) emitMany(emitter, n int) {
	random := rand.New(rand.NewPCG(uint64(emitter), 1))
	for done := 0; done < n; {
		err := c.emitOne(random)
		c.ledger.mu.Lock()
		switch {
		case err == nil:
			c.ledger.committed++
			done++
		case errors.Is(err, errOnPurpose):
			c.ledger.rolledBack++
		default:
			c.ledger.unanswered++
		}
		c.ledger.mu.Unlock()
		if err != nil && !errors.Is(err, errOnPurpose) {
			time.Sleep(50 * time.Millisecond)
		} else if c.plan.pace > 0 {
			time.Sleep(time.Duration(random.Int64N(int64(2 * c.plan.pace))))
		}
	}
}

func (c *crash) emitOne(random *rand.Rand) error {
	o := crashOrder{ID: uuid.NewString(), Key: fmt.Sprint("k", random.IntN(crashKeys))}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.outbox.InTx(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `UPDATE account SET n = n + 1 WHERE key = $1 RETURNING n`, o.Key).Scan(&o.N); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO placed (id, key, n) VALUES ($1, $2, $3)`, o.ID, o.Key, o.N); err != nil {
			return err
		}
		if err := c.outbox.Emit(ctx, tx, outbox.Event{ID: o.ID, Topic: "order.placed", Key: o.Key, Payload: o}); err != nil {
			return err
		}
		if random.IntN(200) == 0 {
			time.Sleep(50*time.Millisecond + time.Duration(random.Int64N(int64(450*time.Millisecond))))
		}
		if random.IntN(10) == 0 {
			return errOnPurpose
		}
		return nil
	})
}

// verdict is what came of it all.
type verdict struct {
	committed, delivered, duplicates, lost, phantom, outOfOrder int
}

// judge waits until all that is in the business table has been delivered, or
// nothing comes any more, and compares.
func (l *ledger) judge(t *testing.T, c *crash) {
	t.Helper()
	placed := c.placed()
	const patience = 45 * time.Second
	for {
		l.mu.Lock()
		v, idle := l.count(placed), time.Since(l.last)
		l.mu.Unlock()
		if v.lost == 0 && idle > 500*time.Millisecond || idle > patience {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.mu.Lock()
	v := l.count(placed)
	t.Logf("%d committed (%d commits unanswered), %d rolled back, %d delivered, %d duplicates (at most %d), %d lost, %d phantom, %d out of order",
		v.committed, l.unanswered, l.rolledBack, v.delivered, v.duplicates, c.repeats, v.lost, v.phantom, v.outOfOrder)
	l.mu.Unlock()
	if v.lost+v.phantom+v.outOfOrder > 0 || v.duplicates > c.repeats {
		t.Fail()
	}
	eventually(t, "the outbox is empty", func() (bool, string) {
		var n int
		err := c.pool.QueryRow(context.Background(), `SELECT count(*) FROM outbox.message`).Scan(&n)
		return err == nil && n == 0, fmt.Sprintf("%d messages are left, error %v", n, err)
	})
}

// placed returns the committed orders.
func (c *crash) placed() map[string]crashOrder {
	rows, err := c.pool.Query(context.Background(), `SELECT id, key, n FROM placed`)
	must(c.t, err)
	orders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[crashOrder])
	must(c.t, err)
	placed := make(map[string]crashOrder, len(orders))
	for _, o := range orders {
		placed[o.ID] = o
	}
	return placed
}

// count compares the deliveries with what was placed. A first delivery is in order
// if it is the one after the key's last first delivery.
func (l *ledger) count(placed map[string]crashOrder) verdict {
	v := verdict{committed: len(placed), delivered: len(l.deliveries)}
	seen := map[string]bool{}
	last := map[string]int{}
	for _, o := range l.deliveries {
		switch {
		case seen[o.ID]:
			v.duplicates++
			continue
		case placed[o.ID] != o:
			v.phantom++
		case o.N != last[o.Key]+1:
			v.outOfOrder++
		}
		seen[o.ID] = true
		last[o.Key] = max(last[o.Key], o.N)
	}
	for id := range placed {
		if !seen[id] {
			v.lost++
		}
	}
	return v
}
