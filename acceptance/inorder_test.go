package acceptance

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

const (
	stepKeys = 10
	steps    = 40 // of each key
)

// TestInOrderAcrossProcesses has three processes share a queue in order, and kills
// them while their handlers fail now and then. Whatever happens, a key's next message
// is handled after the one before: the one at which a process died is handled again,
// and none is after a later one.
func TestInOrderAcrossProcesses(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		number := `seq INTEGER PRIMARY KEY AUTOINCREMENT`
		if strings.HasPrefix(s.databaseURL(), "postgres") {
			number = `seq bigserial PRIMARY KEY`
		}
		execute(t, s, `CREATE TABLE steps (`+number+`, key TEXT NOT NULL, n INTEGER NOT NULL)`)
		start := func() *child { return s.startWorkerProcess(t, workerChild{Queue: "steps", Steps: true}) }
		processes := []*child{start(), start(), start()}
		msgs := make([]outbox.Message, 0, stepKeys*steps)
		for n := range steps {
			for k := range stepKeys {
				msgs = append(msgs, outbox.Message{
					ID: fmt.Sprintf("%d-%d", k, n), Topic: "a", Key: fmt.Sprint("key-", k), ContentType: outbox.ContentTypeJSON, Payload: fmt.Append(nil, n+1),
				})
			}
		}
		s.send(t, msgs...)
		for i := range 6 {
			pause(500 * time.Millisecond)
			processes[i%3].kill()
			processes[i%3] = start()
		}
		s.awaitSteps(t)
		for _, p := range processes {
			p.kill()
		}
	})
}

// awaitSteps waits for all steps and looks at their order.
func (s *system) awaitSteps(t *testing.T) {
	t.Helper()
	eventually(t, "all steps", func() (bool, string) {
		var n int
		must(t, s.sql().QueryRowContext(t.Context(), `SELECT count(*) FROM (SELECT DISTINCT key, n FROM steps) AS done`).Scan(&n))
		return n == stepKeys*steps, fmt.Sprint(n, " steps")
	})
	rows, err := s.sql().QueryContext(t.Context(), `SELECT key, n FROM steps ORDER BY seq`)
	must(t, err)
	defer rows.Close()
	last, repeats := map[string]int{}, 0
	for rows.Next() {
		var key string
		var n int
		must(t, rows.Scan(&key, &n))
		switch n {
		case last[key]:
			repeats++
		case last[key] + 1:
			last[key] = n
		default:
			t.Errorf("%s: step %d was made after step %d", key, n, last[key])
		}
	}
	must(t, rows.Err())
	t.Logf("%d steps were made twice", repeats)
}

// handleSteps writes each message down, and fails now and then before or after it.
func handleSteps(w *worker.Worker, db database) {
	worker.Handle(w, "#", func(_ context.Context, d *worker.Delivery[int]) error {
		time.Sleep(15 * time.Millisecond) // so that it is killed while there is work
		if rand.IntN(30) == 0 {
			return errNoLuck
		}
		err := db.inTx(func(tx transaction) error {
			return tx.exec(`INSERT INTO steps (key, n) VALUES ($1, $2)`, d.Key, d.Payload)
		})
		if err == nil && rand.IntN(30) == 0 {
			return errNoLuck
		}
		return err
	})
}
