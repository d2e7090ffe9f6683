package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/relay"
	promoutbox "github.com/outbox-go/outbox/telemetry/prometheus"
)

// way is a route and the broker that its messages go to; without a broker, the one
// on which messages are dispatched to the routes.
type way struct {
	route  string
	broker *config.Broker
	rates  []relay.Rate
}

// waysOf returns the ways on which the program drains an outbox: that of all
// messages, with routes the dispatching and each route, or the one that relay.route
// names. There is none if it names a route that is not in the file, which has some.
func waysOf(l *config.Loaded) []way {
	if len(l.Routes) == 0 {
		return []way{{l.Drain.Route, &l.Broker, l.Relay.Rates}}
	}
	var ways []way
	if l.Drain.Route == "" {
		ways = append(ways, way{})
	}
	for i := range l.Routes {
		if r := &l.Routes[i]; l.Drain.Route == "" || l.Drain.Route == r.Name {
			ways = append(ways, way{r.Name, &r.Broker, r.Rates})
		}
	}
	return ways
}

// station is a relay of an outbox and a way.
type station struct {
	outbox    string // its name
	way       way
	store     wire.Store
	relay     *relay.Relay
	publisher outbox.Publisher // nil where messages are dispatched
}

// name says which of several stations it is.
func (s *station) name() string {
	name := "outbox " + s.outbox
	if s.way.route != "" {
		name += ", route " + s.way.route
	}
	return name
}

// fleet is all relays of a process.
type fleet struct {
	config   *config.Loaded
	logger   *slog.Logger
	stations []*station
	registry *prometheus.Registry // nil without relay.listen
	counters []*promoutbox.Store
	listen   func(ctx context.Context, network, address string) (net.Listener, error)
}

// newFleet makes a relay for each outbox and way.
func newFleet(
	l *config.Loaded, outboxes []config.Database, stores []wire.Store, ways []way, stdout io.Writer, logger *slog.Logger,
) (*fleet, error) {
	f := &fleet{config: l, logger: logger, listen: new(net.ListenConfig).Listen}
	if l.Drain.Listen != "" {
		f.registry = prometheus.NewRegistry()
		f.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	output := &sharedWriter{w: stdout}
	for i, s := range stores {
		name := wire.OutboxName(outboxes[i])
		if f.registry != nil {
			counter := promoutbox.NewStore(s, &promoutbox.Config{Outbox: name})
			f.registry.MustRegister(counter)
			f.counters = append(f.counters, counter)
		}
		for _, w := range ways {
			station := &station{outbox: name, way: w, store: s}
			if err := f.equip(station, len(stores)*len(ways) > 1, output); err != nil {
				return nil, errors.Join(err, f.close())
			}
			f.stations = append(f.stations, station)
		}
	}
	return f, nil
}

// equip gives a station its relay.
func (f *fleet) equip(s *station, several bool, output io.Writer) (err error) {
	c := f.config.Relay
	c.Logger, c.Rates = f.logger, s.way.rates
	if several {
		c.Logger = f.logger.With("outbox", s.outbox, "route", s.way.route)
	}
	var metrics *promoutbox.Metrics
	if f.registry != nil {
		metrics = promoutbox.New(&promoutbox.Config{Outbox: s.outbox, Route: s.way.route, Router: s.way.broker == nil})
		c.Hooks = []relay.Hook{metrics}
	}
	if s.way.broker == nil {
		// What is dispatched is changed and kept on its routes.
		c.Transform, c.Keep = nil, 0
		s.relay = relay.NewRouter(s.store.View(""), f.routes(), &c)
	} else {
		s.publisher, err = wire.OpenPublisher(*s.way.broker, output, c.Logger)
		if err != nil {
			return err
		}
		s.relay = relay.New(s.store.View(s.way.route), s.publisher, &c)
	}
	if metrics != nil {
		metrics.Watch(s.relay)
		f.registry.MustRegister(metrics)
	}
	return nil
}

func (f *fleet) routes() (routes []relay.Route) {
	for _, r := range f.config.Routes {
		routes = append(routes, r.Route)
	}
	return routes
}

// run runs all relays until ctx ends, or until one of them cannot run.
func (f *fleet) run(ctx context.Context, version string) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stop, err := f.serve(ctx, fail)
	if err != nil {
		return err
	}
	defer stop()
	f.logStart(version)
	defer context.AfterFunc(ctx, func() {
		f.logger.Info("relay is stopping", "reason", context.Cause(ctx), "drain_timeout", f.config.Relay.DrainTimeout.String())
	})()
	var running sync.WaitGroup
	errs := make([]error, len(f.stations))
	for i, s := range f.stations {
		running.Go(func() {
			errs[i] = s.relay.Run(ctx)
			if errs[i] != nil && len(f.stations) > 1 {
				errs[i] = fmt.Errorf("%s: %w", s.name(), errs[i])
			}
			fail(errs[i]) // nil after ctx has ended alone
		})
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := context.Cause(ctx); errors.Is(err, errServer) {
		return err
	}
	f.logStop()
	return nil
}

// logStop says what was done. What was dispatched counts where it is sent.
func (f *fleet) logStop() {
	var confirmed, settled int64
	for _, s := range f.stations {
		if s.way.broker != nil {
			confirmed += s.relay.Stats().Confirmed
			settled += s.relay.Stats().Settled
		}
	}
	f.logger.Info("relay stopped", "confirmed", confirmed, "settled", settled)
}

func (f *fleet) logStart(version string) {
	l := f.config
	args := []any{
		"version", version, "database", config.Redact(l.Database.URL), "schema", l.Database.Schema, "table_prefix", l.Database.TablePrefix,
		"broker", config.Redact(l.Broker.URL), "window", l.Relay.Window, "memory_bytes", l.Relay.Memory,
	}
	if len(f.stations) > 1 {
		var names []string
		for _, s := range f.stations {
			names = append(names, s.name())
		}
		args = append(args, "relays", strings.Join(names, "; "))
	}
	f.logger.Info("relay started", args...)
}

// close closes the publishers.
func (f *fleet) close() error {
	var errs []error
	for _, s := range f.stations {
		if s.publisher != nil {
			errs = append(errs, s.publisher.Close())
		}
	}
	return errors.Join(errs...)
}

// sharedWriter keeps the lines of several publishers apart.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(b)
}
