// Invoices runs an outbox by a loop and a function of its own, in transactions of its
// own. A relay needs neither, and is faster.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	_ "modernc.org/sqlite"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/sqlstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(os.Getenv("DATABASE_FILE")))
	if err != nil {
		return err
	}
	defer db.Close()
	store := sqlstore.New(db, sqlstore.SQLite, nil)
	if err := store.Migrate(ctx); err != nil {
		return err
	}
	ob := outbox.New(store, outbox.WithFilter(func(e *outbox.Event) bool {
		return strings.Contains(e.Type, "InvoicePaid")
	}))
	err = ob.InTx(ctx, func(tx *sql.Tx) error {
		return ob.Emit(ctx, tx,
			outbox.Event{Topic: "invoice.created", Key: "invoice-1", Type: "InvoiceCreated", Payload: map[string]int{"cents": 900}},
			outbox.Event{Topic: "invoice.paid", Key: "invoice-1", Type: "InvoicePaid", Payload: map[string]int{"cents": 900}})
	})
	if err != nil {
		return err
	}
	relay.Every(ctx, 3*time.Second, func(ctx context.Context) error {
		return ob.InTx(ctx, func(tx *sql.Tx) error {
			result, err := relay.RunOnce(ctx, store.Within(tx), publish, &relay.OnceConfig{Limit: 20})
			fmt.Println(result.Sent, "sent,", result.Failed, "failed")
			return err
		})
	}, slog.Default())
	return nil
}

// publish brings one message to where it is to go. What it fails at is tried again, up
// to three times.
func publish(_ context.Context, m *outbox.Message) error {
	fmt.Println(m.Type, m.Key, string(m.Payload))
	return nil
}
