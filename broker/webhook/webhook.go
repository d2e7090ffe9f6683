package webhook

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/outbox-go/outbox"
)

// ReceiverConfig is the optional part of [NewReceiver].
type ReceiverConfig struct {
	MaxBody int64
	Secrets []string
	Timeout time.Duration // for an answer of the worker
	Logger  *slog.Logger
}

// Receiver takes CloudEvents by HTTP and hands them to a worker: it is an
// [http.Handler] and an [outbox.Subscriber].
type Receiver struct{}

// NewReceiver returns a receiver.
func NewReceiver(config *ReceiverConfig) (*Receiver, error) { return nil, errors.ErrUnsupported }

func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {}

// Subscribe implements [outbox.Subscriber].
func (r *Receiver) Subscribe(ctx context.Context, s outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	return nil
}

// Close implements [outbox.Subscriber].
func (r *Receiver) Close() error { return nil }
