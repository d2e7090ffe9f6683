package acceptance

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// awaitSentinel commits an order behind all that went before. When it has arrived,
// whatever else was going to arrive has.
func (s *system) awaitSentinel(t *testing.T, r *recorder) {
	t.Helper()
	before := len(committedOrders(t, s))
	must(t, s.inTx(func(tx transaction) error { return place(tx, "sentinel", "sentinel") }))
	r.await(before + 1)
	if repeats := s.judge(t, r); repeats != 0 {
		t.Errorf("%d messages were delivered more than once", repeats)
	}
}

// wantRows checks the number of rows in the outbox.
func (s *system) wantRows(t *testing.T, n int) {
	t.Helper()
	if rows := pending(t, s); len(rows) != n {
		t.Errorf("the outbox has the rows %+v, want %d", rows, n)
	}
}

// wantOrders checks the number of business rows.
func (s *system) wantOrders(t *testing.T, n int) {
	t.Helper()
	if orders := committedOrders(t, s); len(orders) != n {
		t.Errorf("the orders are %v, want %d", orders, n)
	}
}

var errUndone = errors.New("undone")

func TestK01_RollbackLeavesNothing(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		// The emit as the very first statement, on connections that have run none
		// yet and on such as have.
		for range 3 {
			tx, err := s.begin()
			must(t, err)
			must(t, tx.emit(outbox.Event{Topic: orderPlaced, Key: "a", Payload: order{ID: "phantom"}}))
			must(t, tx.rollback())
		}
		tx, err := s.begin()
		must(t, err)
		must(t, place(tx, "phantom", "a"))
		must(t, tx.rollback())
		err = s.inTx(func(tx transaction) error {
			if err := tx.emit(outbox.Event{Topic: orderPlaced, Payload: order{ID: "phantom"}}); err != nil {
				return err
			}
			return errUndone
		})
		if !errors.Is(err, errUndone) {
			t.Fatalf("InTx returned %v, want its function's error", err)
		}
		s.wantRows(t, 0)
		s.wantOrders(t, 0)
		s.startRelay(t, relay.Config{})
		s.awaitSentinel(t, r)
	})
}

func TestK02_PayloadArrivesByteForByte(t *testing.T) {
	every := make([]byte, 0, 512)
	for i := range 256 {
		every = append(every, byte(i), byte(255-i))
	}
	// Near Emit's limit, with room for the headers, which a NATS server counts too.
	large := bytes.Repeat(every, 1<<20/len(every)-16)
	payloads := map[string][]byte{
		"every.byte": every, "large": large, "empty": {}, "json.with.spaces": []byte("{ \"a\" : 1.0,\n\"a\": \"\\u00e9<&>\" }\n"),
		"not.utf8": {0xff, 0xfe, 0, 0x80}, "zeros": make([]byte, 1000),
	}
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		s.startRelay(t, relay.Config{})
		must(t, s.inTx(func(tx transaction) error {
			for topic, payload := range payloads {
				if err := tx.emit(outbox.Event{Topic: topic, Key: topic, Payload: payload}); err != nil {
					return err
				}
			}
			return nil
		}))
		for _, d := range r.await(len(payloads)) {
			if want, ok := payloads[d.Topic]; !ok || !bytes.Equal(d.Payload, want) {
				t.Errorf("%s: %d bytes %.40q, want %d bytes %.40q", d.Topic, len(d.Payload), d.Payload, len(want), want)
			}
		}
	})
}

func TestK03_BusinessInsertFailsAfterEmit(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		must(t, s.inTx(func(tx transaction) error { return place(tx, "taken", "a") }))
		failing := func(tx transaction) error {
			if err := tx.emit(outbox.Event{Topic: orderPlaced, Key: "a", Payload: order{ID: "phantom"}}); err != nil {
				return err
			}
			err := tx.exec(`INSERT INTO orders (id, key, n) VALUES ('taken', 'a', 2)`)
			if err == nil {
				t.Error("the order was inserted twice")
			}
			return err
		}
		if err := s.inTx(failing); err == nil {
			t.Error("InTx returned nil")
		}
		tx, err := s.begin()
		must(t, err)
		_ = failing(tx)
		// What a careless application does: a PostgreSQL transaction that failed
		// is rolled back by its commit; SQLite lets the rest stand, so roll back.
		if _, ok := s.database.(*postgres); ok {
			_ = tx.commit()
		} else {
			must(t, tx.rollback())
		}
		s.wantRows(t, 1)
		s.startRelay(t, relay.Config{})
		s.awaitSentinel(t, r)
	})
}

func TestE01_AppendRolledBack(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		appendEvents := func(tx transaction, version, n int) error {
			for i := range n {
				if err := place(tx, fmt.Sprintf("event-%d", version+i), "stream"); err != nil {
					return err
				}
			}
			return nil
		}
		must(t, s.inTx(func(tx transaction) error { return appendEvents(tx, 1, 2) }))
		err := s.inTx(func(tx transaction) error {
			if err := appendEvents(tx, 3, 10); err != nil {
				return err
			}
			return errUndone
		})
		if !errors.Is(err, errUndone) {
			t.Fatalf("InTx returned %v, want its function's error", err)
		}
		s.wantOrders(t, 2)
		s.wantRows(t, 2)
		// The versions that were rolled back are used anew: their first use must
		// not come through.
		must(t, s.inTx(func(tx transaction) error { return appendEvents(tx, 3, 1) }))
		s.startRelay(t, relay.Config{})
		s.awaitSentinel(t, r)
		if n := r.distinct(); n != 4 {
			t.Errorf("%d messages, want 3 and the sentinel", n)
		}
	})
}

func TestP01_EventAndBusinessRowTogether(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		s.startRelay(t, relay.Config{})
		t.Run("Commit", func(t *testing.T) {
			tx, err := s.begin()
			must(t, err)
			must(t, place(tx, "committed", "a"))
			s.wantOrders(t, 0) // not seen from outside before the commit
			s.wantRows(t, 0)
			must(t, tx.commit())
			r.await(1)
			s.wantOrders(t, 1)
		})
		t.Run("Rollback", func(t *testing.T) {
			err := s.inTx(func(tx transaction) error { return errors.Join(place(tx, "rolled back", "a"), errUndone) })
			if !errors.Is(err, errUndone) {
				t.Errorf("InTx returned %v, want its function's error", err)
			}
			s.wantOrders(t, 1)
		})
		t.Run("CommitFails", func(t *testing.T) {
			err := s.inTx(func(tx transaction) error {
				if err := place(tx, "failed", "a"); err != nil {
					return err
				}
				return tx.exec(`INSERT INTO lines (id, order_id) VALUES ('1', 'no such order')`)
			})
			if err == nil {
				t.Error("the commit succeeded in spite of its deferred constraint")
			}
			s.wantOrders(t, 1)
		})
		if p, ok := s.database.(*postgres); ok { // a file has no connection to lose
			t.Run("ConnectionLost", func(t *testing.T) { loseConnection(t, p) })
		}
		s.awaitSentinel(t, r)
		s.wantOrders(t, 2)
	})
}

// loseConnection ends the session of a transaction before its commit.
func loseConnection(t *testing.T, p *postgres) {
	tx, err := p.begin()
	must(t, err)
	must(t, place(tx, "lost", "a"))
	var pid int
	must(t, tx.query(func(scan scan) error { return scan(&pid) }, `SELECT pg_backend_pid()`))
	execute(t, p, `SELECT pg_terminate_backend($1)`, pid)
	if err := tx.commit(); err == nil {
		t.Error("the commit succeeded on a connection that was ended")
	}
}

// insertSQL is the documented INSERT for other languages.
func insertSQL(d database) string {
	if _, ok := d.(*postgres); ok {
		return `INSERT INTO outbox.message (topic, key, payload) VALUES ($1, $2, convert_to($3, 'UTF8'))`
	}
	return `INSERT INTO outbox_message (topic, key, payload) VALUES ($1, $2, $3)`
}

func TestD05_DirectInsertIsTransactional(t *testing.T) {
	const payload = `{"ID": "direct"}`
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		inserts := map[string]func(tx transaction, topic string) error{
			"direct.emit": func(tx transaction, topic string) error {
				return tx.emit(outbox.Event{Topic: topic, Key: "a", ContentType: outbox.ContentTypeJSON, Payload: []byte(payload)})
			},
			"direct.insert": func(tx transaction, topic string) error {
				return tx.exec(insertSQL(s.database), topic, "a", payload)
			},
		}
		if _, ok := s.database.(*postgres); ok {
			inserts["direct.function"] = func(tx transaction, topic string) error {
				return tx.exec(`SELECT outbox.emit($1, $2::jsonb, $3, '{"correlation-id": "c"}')`, topic, payload, "a")
			}
		}
		for topic, insert := range inserts {
			tx, err := s.begin()
			must(t, err)
			must(t, insert(tx, topic+".phantom"))
			must(t, tx.rollback())
			tx, err = s.begin()
			must(t, err)
			must(t, insert(tx, topic))
			must(t, tx.commit())
		}
		s.wantRows(t, len(inserts))
		s.startRelay(t, relay.Config{})
		must(t, s.inTx(func(tx transaction) error { return tx.emit(outbox.Event{Topic: "last", Key: "a"}) }))
		for _, d := range r.await(len(inserts) + 1) {
			if d.Topic == "last" {
				continue
			}
			if inserts[d.Topic] == nil || string(d.Payload) != payload || d.Key != "a" || d.ContentType != outbox.ContentTypeJSON || d.ID == "" {
				t.Errorf("delivered %+v with %q, want the message as it was inserted", d.Metadata, d.Payload)
			}
			if d.Topic == "direct.function" && d.Headers[outbox.HeaderCorrelationID] != "c" {
				t.Errorf("headers %v, want the correlation id", d.Headers)
			}
		}
		s.awaitPending(t, 0)
		if n := len(r.deliveries()); n != len(inserts)+1 {
			t.Errorf("%d messages, want %d", n, len(inserts)+1)
		}
	})
}
