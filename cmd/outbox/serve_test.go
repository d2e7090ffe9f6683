package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// brokenListener fails as soon as it is asked.
type brokenListener struct{ net.Listener }

var errBroken = errors.New("too many open files")

func (brokenListener) Accept() (net.Conn, error) { return nil, errBroken }

// TestRelayEndsWithItsHTTPServer: nobody would see how a relay is that answers nothing.
func TestRelayEndsWithItsHTTPServer(t *testing.T) {
	t.Parallel()
	env := sqliteDesk(t).env
	env["OUTBOX_RELAY_LISTEN"] = "127.0.0.1:0"
	l := config.Load(config.Sources{Env: func(name string) (string, bool) { value, ok := env[name]; return value, ok }})
	outboxes := wire.CheckOutboxes(l, wire.SQLite)
	logger := slog.New(slog.DiscardHandler)
	stores, err := wire.OpenStores(t.Context(), outboxes, 1, logger)
	if err != nil {
		t.Fatal(err)
	}
	defer stores[0].Close()
	f, err := newFleet(l, outboxes, stores, waysOf(l), io.Discard, logger)
	if err != nil {
		t.Fatal(err)
	}
	f.listen = func(ctx context.Context, network, address string) (net.Listener, error) {
		listener, err := new(net.ListenConfig).Listen(ctx, network, address)
		return brokenListener{listener}, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.run(ctx, ""); !errors.Is(err, errServer) || !errors.Is(err, errBroken) {
		t.Errorf("got %v, want why the server ended", err)
	}
}
