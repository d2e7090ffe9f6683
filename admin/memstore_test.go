package admin_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
)

// TestAdminMendsARunningOutbox redrives a parked key while a relay runs, and cancels
// what the relay holds.
func TestAdminMendsARunningOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memstore.New(nil)
		ob, a := outbox.New(s), admin.New(s)
		emit := func(topic, key string) string {
			id := ""
			err := s.InTx(t.Context(), func(tx *memstore.Tx) error {
				msgs, err := ob.Prepare(t.Context(), outbox.Event{Topic: topic, Key: key})
				if err != nil {
					return err
				}
				id = msgs[0].ID
				return s.Insert(t.Context(), tx, msgs)
			})
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		mended := make(chan struct{})
		var sent []string
		publish := outbox.PublishFunc(func(_ context.Context, m *outbox.Message) error {
			select {
			case <-mended:
				sent = append(sent, m.ID)
				return nil
			default:
				return context.DeadlineExceeded // any error counts as refused
			}
		})
		first, second := emit("order.placed", "7"), emit("order.paid", "7")
		if _, err := a.Pause(t.Context(), store.Pause{Topic: "mail.#"}); err != nil {
			t.Fatal(err)
		}
		held := emit("mail.welcome", "")
		r := relay.New(s, publish, &relay.Config{MaxAttempts: 1, Policies: []relay.TopicPolicy{{Pattern: "#", Policy: relay.Park}}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		time.Sleep(time.Minute)
		close(mended)
		if n, err := a.Redrive(ctx, admin.Filter{IDs: []string{second}}); n != 2 || err != nil {
			t.Errorf("redriven: %d, %v, want both of the key", n, err)
		}
		if w, err := a.Cancel(ctx, held); w != store.Withdrawn || err != nil {
			t.Errorf("cancelled: %v, %v", w, err)
		}
		time.Sleep(time.Minute)
		if len(sent) != 2 || sent[0] != first || sent[1] != second {
			t.Errorf("sent %v, want %s and %s", sent, first, second)
		}
		if rows, err := a.Show(ctx, held); len(rows) != 0 || err != nil {
			t.Errorf("what was cancelled is %v, %v", rows, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
