package bare

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/internal/measure"
)

// NATS publishes to a stream of the run's own with message ids, and returns how long it
// took until all were acknowledged, and how many messages the stream has then. With
// Settings.Raw the acknowledgements are counted by a subscription of the loop's own
// instead of by nats.go's PublishMsgAsync.
func NATS(ctx context.Context, s *work.Settings) (took time.Duration, arrived int, err error) {
	nc, err := nats.Connect(s.BrokerURL)
	if err != nil {
		return 0, 0, err
	}
	defer nc.Close()
	var refused atomic.Pointer[error]
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(s.Window),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, _ *nats.Msg, err error) { refused.Store(&err) }))
	if err != nil {
		return 0, 0, err
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: s.Name, Subjects: []string{s.Name + ".>"}, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardNew, Duplicates: 2 * time.Minute,
	})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, js.DeleteStream(context.WithoutCancel(ctx), s.Name)) }()
	began := time.Now()
	if s.Raw {
		err = publishRaw(ctx, nc, s)
	} else {
		err = publishAsync(ctx, js, s)
	}
	if failed := refused.Load(); failed != nil {
		err = errors.Join(err, *failed)
	}
	if err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, 0, err
	}
	return took, int(info.State.Msgs), nil //nolint:gosec // as many as were sent
}

func message(s *work.Settings, load *measure.Load, n int) *nats.Msg {
	return &nats.Msg{
		Subject: s.Name + "." + measure.Topic,
		Header:  nats.Header{nats.MsgIdHdr: {strconv.Itoa(n)}},
		Data:    load.Body(n),
	}
}

func publishAsync(ctx context.Context, js jetstream.JetStream, s *work.Settings) error {
	load := s.Load()
	for n := range load.Messages {
		if _, err := js.PublishMsgAsync(message(s, &load, n), jetstream.WithStallWait(s.Timeout)); err != nil {
			return err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publishRaw counts what the server answers.
func publishRaw(ctx context.Context, nc *nats.Conn, s *work.Settings) error {
	load := s.Load()
	window := make(chan struct{}, s.Window)
	var refused atomic.Pointer[string]
	inbox := nats.NewInbox()
	// An answer is {"stream":...} or {"error":...}, {"type":...} first.
	acks, err := nc.Subscribe(inbox, func(m *nats.Msg) {
		if len(m.Data) < 3 || m.Data[2] != 's' {
			text := string(m.Data)
			refused.Store(&text)
		}
		<-window
	})
	if err != nil {
		return err
	}
	defer func() { _ = acks.Unsubscribe() }()
	for n := range load.Messages + s.Window {
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if n >= load.Messages {
			continue
		}
		m := message(s, &load, n)
		m.Reply = inbox
		if err := nc.PublishMsg(m); err != nil {
			return err
		}
	}
	if text := refused.Load(); text != nil {
		return fmt.Errorf("the server answered %s", *text)
	}
	return nil
}
