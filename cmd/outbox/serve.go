package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	promoutbox "github.com/outbox-go/outbox/telemetry/prometheus"
)

// Limits of the HTTP server: nobody else's business may hold it up.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 10 * time.Second
	answerTimeout  = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	serverDrain    = 5 * time.Second
)

// errServer ends the relays: without the server nobody would see how they are.
var errServer = errors.New("HTTP is not answered any more")

// serve answers HTTP at relay.listen, if that is set, and counts what is in the
// outboxes, until stop is called, when all relays have stopped. If the server ends
// before, fail is told.
func (f *fleet) serve(ctx context.Context, fail func(error)) (stop func(), err error) {
	if f.registry == nil {
		return func() {}, nil
	}
	listener, err := f.listen(ctx, "tcp", f.config.Drain.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen at relay.listen: %w", err)
	}
	return f.serveAt(ctx, listener, fail), nil
}

// serveAt is serve at a listener.
func (f *fleet) serveAt(ctx context.Context, listener net.Listener, fail func(error)) (stop func()) {
	f.logger.Info("answering HTTP", "address", listener.Addr().String())
	server := &http.Server{
		Handler:           promoutbox.Handler(f.registry, f.ready()...),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes, ErrorLog: slog.NewLogLogger(f.logger.Handler(), slog.LevelWarn),
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fail(fmt.Errorf("%w: %w", errServer, err))
		}
	})
	counting, stopCounting := context.WithCancel(context.WithoutCancel(ctx))
	for _, c := range f.counters {
		running.Go(func() { c.Run(counting) })
	}
	return func() {
		stopCounting()
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), serverDrain)
		defer cancel()
		if err := server.Shutdown(ending); err != nil {
			_ = server.Close() // whoever still asks has had its time
		}
		running.Wait()
	}
}

// ready returns a check for each relay, which says of several which it is.
func (f *fleet) ready() (checks []func() error) {
	for _, s := range f.stations {
		checks = append(checks, func() error {
			err := s.relay.Ready()
			if err != nil && len(f.stations) > 1 {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
			return err
		})
	}
	return checks
}
