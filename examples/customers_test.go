package examples

import (
	"fmt"
	"path"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/internal/testenv"
)

// TestCustomers looks at what the app publishes, and has a relay of the program bring it
// to the worker by STOMP.
func TestCustomers(t *testing.T) {
	t.Parallel()
	database := testenv.Postgres(t).NewDatabase(t)
	rabbit := testenv.RabbitMQ(t)
	amqp := rabbit.NewVHost(t)
	broker, vhost := rabbit.STOMPURL(amqp), path.Base(amqp)
	pool, err := pgxpool.New(t.Context(), database)
	must(t, err)
	defer pool.Close()
	_, err = pool.Exec(t.Context(), `CREATE TABLE known (id integer PRIMARY KEY, name text NOT NULL)`)
	must(t, err)
	env := []string{"DATABASE_URL=" + database, "BROKER_URL=" + broker}
	start(t, "./customers/app", env...).end(t)

	rows, err := pool.Query(t.Context(), `SELECT topic || ' ' || convert_from(payload, 'UTF8') FROM outbox.message ORDER BY position`)
	must(t, err)
	published, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	want := []string{
		`customers {"id": 1, "name": "Ada", "city": "London"}`,
		`customers.v1 {"id": 1, "name": "Ada", "city": "London"}`,
		`names {"id": 1, "name": "Ada"}`,
		`cards {"id": 1, "line": "Ada, London"}`,
		`labels {"id": 1, "to": "London"}`,
		`greetings {"some":"data"}`,
	}
	if !slices.Equal(published, want) {
		t.Errorf("published %q, want %q", published, want)
	}

	start(t, "./customers/worker", env...)
	eventually(t, func() (bool, string) { // without a queue the broker drops what is sent
		bound := rabbit.Eval(fmt.Sprintf(`length(rabbit_binding:list_for_destination(rabbit_misc:r(<<"%s">>, queue, <<"customers">>))).`, vhost))
		return bound == "2", bound + " bindings" // one is that of every queue, to the default exchange
	})
	relay := start(t, "../cmd/outbox relay", "OUTBOX_DATABASE_URL="+database, "OUTBOX_BROKER_URL="+broker, "OUTBOX_BROKER_DOP=yes")
	eventually(t, func() (bool, string) {
		var name string
		err := pool.QueryRow(t.Context(), `SELECT name FROM known WHERE id = 1`).Scan(&name)
		return name == "Ada", fmt.Sprintf("%q, %v\n%s", name, err, relay.output())
	})
}
