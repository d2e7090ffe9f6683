package acceptance

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/track"
)

// trackTable has a table of the system's database publish.
func (s *system) trackTable(t *testing.T, table string, c *track.Config) track.Tracker {
	t.Helper()
	st, closeIt, err := openStore(s.databaseURL())
	must(t, err)
	t.Cleanup(closeIt)
	tracker := st.(track.Tracker)
	must(t, tracker.Track(t.Context(), table, c))
	return tracker
}

// story returns topic and payload of what came of each key, in its order, without
// repeats.
func story(t *testing.T, deliveries []delivery) map[string][]string {
	t.Helper()
	told, seen := map[string][]string{}, map[string]bool{}
	for _, d := range deliveries {
		if seen[d.ID] {
			continue
		}
		seen[d.ID] = true
		var fields map[string]any
		must(t, json.Unmarshal(d.Payload, &fields))
		text, err := json.Marshal(fields)
		must(t, err)
		told[d.Key] = append(told[d.Key], d.Topic+" "+string(text))
	}
	return told
}

// TestTrackedTableReachesTheWorker: statements for many rows at once, of a session that
// knows nothing of the outbox, are told row by row and by key in their order: also
// while a column is renamed, and not if they are rolled back.
func TestTrackedTableReachesTheWorker(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		const rows = 200
		execute(t, s, `CREATE TABLE accounts (id INTEGER PRIMARY KEY, owner TEXT, cents INTEGER NOT NULL, secret TEXT)`)
		tracker := s.trackTable(t, "accounts", &track.Config{Fields: []string{"id", "cents"}, Topic: "accounts.{op}"})
		r := s.startWorker(t)
		s.startRelay(t, relay.Config{})
		execute(t, s, `INSERT INTO accounts WITH RECURSIVE g (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM g WHERE i < 200) SELECT i, 'o', 0, 's' FROM g`)
		execute(t, s, `UPDATE accounts SET cents = id`)
		execute(t, s, `BEGIN; UPDATE accounts SET cents = -1; ROLLBACK`)
		execute(t, s, `ALTER TABLE accounts RENAME COLUMN cents TO balance`)
		execute(t, s, `UPDATE accounts SET balance = balance + 1000`)
		execute(t, s, `DELETE FROM accounts WHERE id <= 100`)
		told := story(t, r.await(3*rows+100))
		for id := 1; id <= rows; id++ {
			want := []string{fmt.Sprintf(`accounts.insert {"cents":0,"id":%d}`, id), fmt.Sprintf(`accounts.update {"cents":%d,"id":%[1]d}`, id),
				fmt.Sprintf(`accounts.update {"cents":%d,"id":%d}`, id+1000, id)}
			if id <= 100 {
				want = append(want, fmt.Sprintf(`accounts.delete {"cents":%d,"id":%d}`, id+1000, id))
			}
			if got := told[fmt.Sprint(id)]; !slices.Equal(got, want) {
				t.Fatalf("of row %d came %q, want %q", id, got, want)
			}
		}
		tables, err := tracker.Tracked(t.Context(), "accounts")
		if err != nil || len(tables) != 1 || !slices.Equal(tables[0].Changes, []string{"column cents is called balance now; messages keep the old name"}) {
			t.Errorf("tracked are %+v, %v, want a change of the column", tables, err)
		}
		must(t, tracker.Untrack(t.Context(), "accounts"))
		execute(t, s, `DELETE FROM accounts`)
		s.awaitPending(t, 0)
		if n := r.distinct(); n != 3*rows+100 {
			t.Errorf("%d messages came, want none of what was rolled back or written after the end", n)
		}
	})
}

// TestTrackedUpdatesComeInOrder: sessions count up the same rows, which makes them
// wait for one another, and each count arrives, in order.
func TestTrackedUpdatesComeInOrder(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		const sessions, times, rows = 4, 25, 5
		execute(t, s, `CREATE TABLE tallies (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)`)
		execute(t, s, `INSERT INTO tallies VALUES (0, 0), (1, 0), (2, 0), (3, 0), (4, 0)`)
		s.trackTable(t, "tallies", &track.Config{On: []track.Op{track.Update}})
		r := s.startWorker(t)
		s.startRelay(t, relay.Config{})
		s.startRelay(t, relay.Config{})
		var running sync.WaitGroup
		for session := range sessions {
			running.Go(func() {
				for i := range times * rows {
					if err := s.inTx(func(tx transaction) error {
						return tx.exec(fmt.Sprintf(`UPDATE tallies SET n = n + 1 WHERE id = %d`, (i+session)%rows))
					}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		running.Wait()
		told := story(t, r.await(sessions*times*rows))
		for id := range rows {
			var want []string
			for n := 1; n <= sessions*times; n++ {
				want = append(want, fmt.Sprintf(`tallies.update {"id":%d,"n":%d}`, id, n))
			}
			if got := told[fmt.Sprint(id)]; !slices.Equal(got, want) {
				t.Errorf("of row %d came %q, want it counted up to %d", id, got, sessions*times)
			}
		}
	})
}

// TestTrackedTableIsFilledByCopy: what a bulk load writes is sent like all else.
func TestTrackedTableIsFilledByCopy(t *testing.T) {
	t.Parallel()
	s := newSystem(newPostgres(t), newRabbit(t, false))
	const rows = 2000
	execute(t, s, `CREATE TABLE readings (sensor TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (sensor, n))`)
	s.trackTable(t, "readings", &track.Config{Key: []string{"sensor"}})
	r := s.startWorker(t)
	s.startRelay(t, relay.Config{})
	conn, err := s.sql().Conn(t.Context())
	must(t, err)
	defer conn.Close()
	must(t, conn.Raw(func(driver any) error {
		_, err := driver.(*stdlib.Conn).Conn().CopyFrom(t.Context(), pgx.Identifier{"readings"}, []string{"sensor", "n"},
			pgx.CopyFromSlice(rows, func(i int) ([]any, error) { return []any{fmt.Sprint("s", i%10), i / 10}, nil }))
		return err
	}))
	told := story(t, r.await(rows))
	for sensor := range 10 {
		key := fmt.Sprint("s", sensor)
		for n, got := range told[key] {
			if want := fmt.Sprintf(`readings.insert {"n":%d,"sensor":%q}`, n, key); got != want {
				t.Fatalf("reading %d of %s is %s, want %s", n, key, got, want)
			}
		}
		if len(told[key]) != rows/10 {
			t.Errorf("of %s came %d readings, want %d", key, len(told[key]), rows/10)
		}
	}
}
