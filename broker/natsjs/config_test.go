package natsjs_test

import (
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/broker/natsjs"
)

func TestNewReportsEveryFault(t *testing.T) {
	t.Parallel()
	_, err := natsjs.New("", &natsjs.Config{
		Stream: "a.b", SubjectPrefix: "outbox", Topology: 7, Replicas: 6, MaxBytes: -1, MaxAge: time.Minute,
		DuplicateWindow: time.Hour, AckWait: time.Millisecond, DeadLetterMaxAge: -1, ConfirmTimeout: -1, ConnectTimeout: -1, ReconnectMaxWait: -1,
	})
	wantError(t, err, "url", "Stream", "SubjectPrefix", "Topology", "Replicas", "MaxBytes", "DuplicateWindow", "DeadLetterMaxAge",
		"AckWait", "ConfirmTimeout", "ConnectTimeout", "ReconnectMaxWait")
	_, err = natsjs.New("localhost", &natsjs.Config{Stream: strings.Repeat("s", 241)})
	wantError(t, err, "Stream", "240")
	for _, prefix := range []string{".", "a..", "a b.", "a.*.", ">.", "a\n."} {
		_, err := natsjs.New("localhost", &natsjs.Config{SubjectPrefix: prefix})
		wantError(t, err, "SubjectPrefix")
	}
}

func TestNewTakesURLs(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"localhost", "127.0.0.1:4222", "nats://a:4222,tls://b:4222", "nats://user:pass@host", "ws://host:80", "nats://[::1]:4222"} {
		if _, err := natsjs.New(url, nil); err != nil {
			t.Errorf("New(%q): %v", url, err)
		}
	}
	for _, url := range []string{"", "http://host", "nats://", "amqp://host", "nats://user:secret@host:port"} {
		_, err := natsjs.New(url, nil)
		if wantError(t, err, "url"); err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("New(%q): the error has the password: %v", url, err)
		}
	}
}

func TestNegativeMaxAgeKeepsForEver(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	config := place()
	config.MaxAge, config.DuplicateWindow = -1, time.Hour
	connect(t, server.url(), config)
	stream, err := server.jetStream(t).Stream(t.Context(), config.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config; got.MaxAge != 0 || got.Duplicates != time.Hour {
		t.Errorf("the stream has MaxAge %v and Duplicates %v", got.MaxAge, got.Duplicates)
	}
}
