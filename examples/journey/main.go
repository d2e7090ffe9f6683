// Journey sends what is in a table of its own as CloudEvents, by parts of which each can
// be replaced: a source, a mapper, a publisher, a producer and a runner.
package main

import (
	"context"
	"database/sql"
	"errors"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	_ "modernc.org/sqlite"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/sqlstore"
)

// box is a stored event, with what is known of its sending.
type box struct {
	id, payload string
	retries     int
}

// boxes is the source: a table that was there before.
type boxes struct {
	db *sql.DB
}

const table = `CREATE TABLE IF NOT EXISTS box (
	id TEXT PRIMARY KEY, payload TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'WAITING', retries INTEGER NOT NULL DEFAULT 0)`

func (b boxes) Fetch(ctx context.Context, limit int) ([]box, error) {
	rows, err := b.db.QueryContext(ctx, `SELECT id, payload, retries FROM box WHERE status = 'WAITING' ORDER BY rowid LIMIT ?`, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var due []box
	for rows.Next() {
		var item box
		if err := rows.Scan(&item.id, &item.payload, &item.retries); err != nil {
			return nil, err
		}
		due = append(due, item)
	}
	return due, rows.Err()
}

func (b boxes) Sent(ctx context.Context, item box) error {
	_, err := b.db.ExecContext(ctx, `UPDATE box SET status = 'PUBLISHED' WHERE id = ?`, item.id)
	return err
}

func (b boxes) Failed(ctx context.Context, item box, cause error) error {
	status := "WAITING"
	if item.retries+1 == 5 || errors.Is(cause, outbox.ErrInvalid) {
		status = "FAILED"
	}
	_, err := b.db.ExecContext(ctx, `UPDATE box SET retries = retries + 1, status = ? WHERE id = ?`, status, item.id)
	return err
}

// event is the mapper. The id is the stored one at each attempt, so that the receiver
// can tell a repeat.
func event(_ context.Context, item box) (*outbox.Message, error) {
	return &outbox.Message{
		ID: item.id, Topic: "user.created", ContentType: outbox.ContentTypeJSON, Payload: []byte(item.payload), CreatedAt: time.Now(),
	}, nil
}

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
	if _, err := db.ExecContext(ctx, table); err != nil {
		return err
	}
	publisher, err := webhook.NewPublisher(os.Getenv("SINK_URL"), &webhook.PublisherConfig{Source: "/users"})
	if err != nil {
		return err
	}
	defer publisher.Close()
	producer := relay.NewProducer(boxes{db}, event, publisher.Send, nil)
	relay.Every(ctx, time.Second, func(ctx context.Context) error {
		_, err := producer.Produce(ctx)
		return err
	}, slog.Default())
	return nil
}
