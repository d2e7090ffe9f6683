package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// mail is a row of a table that was there before: what python-outbox calls a storage
// box.
type mail struct {
	ID       string
	To       string
	Attempts int
	Status   string // waiting, sent or failed
	Error    string
}

// mails is the table, and the source: it says what is to be sent and notes what became
// of it.
type mails []*mail

func (t mails) Fetch(_ context.Context, limit int) (due []*mail, err error) {
	for _, m := range t {
		if m.Status == "waiting" && len(due) < limit {
			due = append(due, m)
		}
	}
	return due, nil
}

func (t mails) Sent(_ context.Context, m *mail) error {
	m.Status = "sent"
	return nil
}

func (t mails) Failed(_ context.Context, m *mail, err error) error {
	m.Error = err.Error()
	if errors.Is(err, outbox.ErrUnavailable) {
		return nil // not the mail's fault
	}
	if m.Attempts++; m.Attempts == 3 || errors.Is(err, outbox.ErrInvalid) {
		m.Status = "failed"
	}
	return nil
}

// message is the mapper.
func message(_ context.Context, m *mail) (*outbox.Message, error) {
	payload, err := json.Marshal(map[string]string{"to": m.To})
	return &outbox.Message{ID: m.ID, Topic: "mail.requested", Key: m.To, ContentType: outbox.ContentTypeJSON, Payload: payload}, err
}

// send is the publisher: any function, or relay.Wait of any outbox.Publisher.
func send(_ context.Context, m *outbox.Message) error {
	if m.Key == "nobody" {
		return errors.New("no such address")
	}
	fmt.Println(m.Topic, m.ID, string(m.Payload))
	return nil
}

// A table of one's own is drained by a producer, which a runner runs again and again.
func Example_ownTable() {
	table := mails{
		{ID: "1", To: "ada", Status: "waiting"},
		{ID: "2", To: "nobody", Status: "waiting"},
		{ID: "3", To: "bob", Status: "waiting"},
	}
	producer := relay.NewProducer(table, message, send, nil)
	ctx, stop := context.WithCancel(context.Background())
	runs := 0
	relay.Every(ctx, time.Millisecond, func(ctx context.Context) error {
		result, err := producer.Produce(ctx)
		fmt.Printf("%d sent, %d failed\n", result.Sent, result.Failed)
		if runs++; runs == 4 {
			stop()
		}
		return err
	}, nil)
	fmt.Println(table[1].Status, "after", table[1].Attempts, "attempts:", table[1].Error)
	// Output:
	// mail.requested 1 {"to":"ada"}
	// mail.requested 3 {"to":"bob"}
	// 2 sent, 1 failed
	// 0 sent, 1 failed
	// 0 sent, 1 failed
	// 0 sent, 0 failed
	// failed after 3 attempts: no such address
}
