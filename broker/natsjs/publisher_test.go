package natsjs_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/natsjs"
	"github.com/outbox-go/outbox/internal/testenv"
)

// publish publishes m and waits for the answer.
func publish(tb testing.TB, p outbox.Publisher, m *outbox.Message) error {
	tb.Helper()
	answer := make(chan error, 1)
	p.Publish(context.Background(), m, func(err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-time.After(patience):
		tb.Fatal("a message was not answered")
		return nil
	}
}

func TestFullStreamRefuses(t *testing.T) {
	t.Parallel()
	config := place()
	config.MaxBytes = 2000
	p := connect(t, startServer(t).url(), config).Publisher()
	defer p.Close()
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = publish(t, p, benchMessage(i))
	}
	if !errors.Is(err, outbox.ErrRefused) {
		t.Errorf("a full stream: %v, want ErrRefused", err)
	}
	wantError(t, err, "maximum bytes")
}

func TestInvalidMessages(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.MaxPayload = 4096 })
	config := place()
	broker := connect(t, s.url(), config)
	js := s.jetStream(t)
	stream, err := js.Stream(t.Context(), config.Stream)
	if err != nil {
		t.Fatal(err)
	}
	limited := stream.CachedInfo().Config
	limited.MaxMsgSize = 1024
	if _, err := js.UpdateStream(t.Context(), limited); err != nil {
		t.Fatal(err)
	}
	p := broker.Publisher()
	defer p.Close()
	for name, m := range map[string]*outbox.Message{
		"greater than the server takes": {ID: "1", Topic: "a", Payload: make([]byte, 5000)},
		"greater than the stream takes": {ID: "2", Topic: "a", Payload: make([]byte, 2000)},
		"topic with a space":            {ID: "3", Topic: "a b"},
		"topic with a wild card":        {ID: "4", Topic: "a.>"},
		"topic with an empty word":      {ID: "5", Topic: "a..b"},
		"no topic":                      {ID: "6"},
		"header with a bad name":        {ID: "7", Topic: "a", Headers: map[string]string{"a b": "c"}},
	} {
		if err := publish(t, p, m); !errors.Is(err, outbox.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	// A value cannot forge a header, whoever wrote the row.
	if err := publish(t, p, &outbox.Message{ID: "8\r\nNats-Rollup: all", Topic: "a", Key: "k\r\nX: y"}); err != nil {
		t.Errorf("a line feed in a field: %v", err)
	}
	if err := publish(t, p, &outbox.Message{ID: "9", Topic: "a"}); err != nil {
		t.Errorf("a good message afterwards: %v", err)
	}
}

// TestDeletedStreamIsUnavailable: nothing can be stored, which is no message's
// fault, until the publisher has declared the stream again.
func TestDeletedStreamIsUnavailable(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	p := connect(t, s.url(), config).Publisher()
	defer p.Close()
	if err := publish(t, p, benchMessage(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.jetStream(t).DeleteStream(t.Context(), config.Stream); err != nil {
		t.Fatal(err)
	}
	if err := publish(t, p, benchMessage(2)); !errors.Is(err, outbox.ErrUnavailable) {
		t.Errorf("without a stream: %v, want ErrUnavailable", err)
	}
	publishAgain(t, p, 1, func(int) {})
}

func TestConfirmTimeout(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, startServer(t).addr())
	config := place()
	config.ConfirmTimeout = 100 * time.Millisecond
	p := connect(t, "nats://"+proxy.Addr(), config).Publisher()
	defer p.Close()
	if err := publish(t, p, benchMessage(1)); err != nil {
		t.Fatal(err)
	}
	proxy.Stall()
	if err := publish(t, p, benchMessage(2)); !errors.Is(err, outbox.ErrUnavailable) {
		t.Errorf("without an answer: %v, want ErrUnavailable", err)
	} else {
		wantError(t, err, "ConfirmTimeout")
	}
	proxy.Resume()
	publishAgain(t, p, 1, func(int) {})
}

// dialer tells of each connection.
type dialer struct{ dialed chan struct{} }

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	d.dialed <- struct{}{}
	return c, err
}

// TestCloseWhileConnecting: a server that accepts and says nothing does not hold
// up Close.
func TestCloseWhileConnecting(t *testing.T) {
	t.Parallel()
	proxy := testenv.NewProxy(t, startServer(t).addr())
	config := place()
	config.ConnectTimeout = patience
	d := &dialer{dialed: make(chan struct{}, 100)}
	config.Options = []nats.Option{nats.SetCustomDialer(d)}
	broker := connect(t, "nats://"+proxy.Addr(), config)
	p := broker.Publisher()
	for range 2 { // Connect and Publisher
		await(t, d.dialed, func() string { return "the dialer was not used" })
	}
	proxy.Stall()
	proxy.Cut()
	if err := publish(t, p, benchMessage(1)); !errors.Is(err, outbox.ErrUnavailable) {
		t.Errorf("while connecting: %v, want ErrUnavailable", err)
	}
	await(t, d.dialed, func() string { return "it does not connect again" })
	closed := make(chan struct{})
	go func() {
		_ = p.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(patience / 2):
		t.Error("Close waits for a connection attempt")
	}
}

func TestTopologyCheckOnly(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	js := s.jetStream(t)
	config := place()
	config.Topology = natsjs.CheckOnly
	_, err := natsjs.Connect(t.Context(), s.url(), config)
	wantError(t, err, config.Stream, "does not exist", config.SubjectPrefix+">")

	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: config.Stream, Subjects: []string{"other.>"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = natsjs.Connect(t.Context(), s.url(), config)
	wantError(t, err, config.Stream, "other.>", config.SubjectPrefix+">")

	_, err = js.UpdateStream(t.Context(), jetstream.StreamConfig{Name: config.Stream, Subjects: []string{"other.>", config.SubjectPrefix + ">"}})
	if err != nil {
		t.Fatal(err)
	}
	broker := connect(t, s.url(), config)
	subscribe := func(topics ...string) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := outbox.Subscription{Queue: "q.1", Topics: topics, Prefetch: 1}
		return broker.Subscriber().Subscribe(ctx, s, cancel, func(*outbox.Received) {})
	}
	dead, bucket := config.Stream+"-dead", config.Stream+"-retries"
	wantError(t, subscribe("a"), "q=2E1", "q.1", dead, dead+".>", bucket, "does not exist")
	_, err = js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bucket})
	if err != nil {
		t.Fatal(err)
	}
	err = subscribe("a")
	if wantError(t, err, "q=2E1", dead); strings.Contains(fmt.Sprint(err), bucket) {
		t.Errorf("the bucket is there, but the error says %v", err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: dead, Subjects: []string{dead + ".>"}})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, subscribe("a"), dead, "limits retention", "workqueue")
	if err := js.DeleteStream(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: dead, Subjects: []string{dead + ".>"}, Retention: jetstream.WorkQueuePolicy})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, subscribe("a"), "q=2E1", "q.1", "does not exist")
	_, err = js.CreateConsumer(t.Context(), config.Stream, jetstream.ConsumerConfig{
		Durable: "q=2E1", AckPolicy: jetstream.AckExplicitPolicy,
		FilterSubjects: []string{config.SubjectPrefix + "a", config.SubjectPrefix + "b.>"},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, subscribe("a", "c"), "q=2E1", `"c"`)
	if err := subscribe("a"); err != nil {
		t.Errorf("a consumer that is as it should be: %v", err)
	}
	if err := subscribe("b.*.#"); err != nil {
		t.Errorf("a consumer that is as it should be: %v", err)
	}
}

func TestWrongConsumerIsAnError(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	config := place()
	broker := connect(t, s.url(), config)
	_, err := s.jetStream(t).CreateConsumer(t.Context(), config.Stream, jetstream.ConsumerConfig{Durable: "q", AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		t.Fatal(err)
	}
	sub := outbox.Subscription{Queue: "q", Topics: []string{"#"}, Prefetch: 1}
	err = broker.Subscriber().Subscribe(t.Context(), sub, func() {}, func(*outbox.Received) {})
	wantError(t, err, "q", "explicit acknowledgement")
}
