package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/store"
)

func (a *app) stats() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats",
		Short: "Count what is in the outbox, and show its relays and pauses",
		Long: `Counts what is in the outbox, and shows the relays that are alive and what is paused. With --watch it
does so again and again, until SIGINT or SIGTERM. With relay.outboxes it does so for each of them, unless
--database-schema or --database-table-prefix names one.`,
		Example: `  outbox stats --config /etc/outbox.yaml
  outbox stats --watch 5s
  outbox stats --json`,
		Args: noArguments,
	}
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object, each time")
	watch := cmd.Flags().Duration("watch", 0, "`interval` after which to count again")
	keys := a.keyFlags(cmd.Flags(), true, "database", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		outboxes := wire.NamedOutboxes(l, wire.DatabaseKind(l.Database.URL))
		if *watch < 0 || *watch > 0 && *watch < time.Second {
			l.Add(config.Problem{Key: "--watch", Value: watch.String(), Reason: "must be at least 1s"})
		}
		if err := l.Err(); err != nil {
			return err
		}
		stores, err := wire.OpenStores(cmd.Context(), outboxes, 0, l.Log.Logger(a.stderr))
		if err != nil {
			return err
		}
		var names []string
		for i, s := range stores {
			defer closeStore(s, &err)
			names = append(names, wire.OutboxName(outboxes[i]))
		}
		return wire.DatabaseError("stats", l.Database, a.watchStats(cmd.Context(), stores, names, *watch, *asJSON))
	}
	return cmd
}

// watchStats counts once, or again and again until ctx ends.
func (a *app) watchStats(ctx context.Context, stores []wire.Store, names []string, watch time.Duration, asJSON bool) error {
	for {
		err := a.countAll(ctx, stores, names, asJSON)
		switch {
		case ctx.Err() != nil && watch > 0:
			return nil
		case err != nil || watch == 0:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watch):
			if !asJSON {
				fmt.Fprintln(a.stdout)
			}
		}
	}
}

// countAll writes the figures of each outbox.
func (a *app) countAll(ctx context.Context, stores []wire.Store, names []string, asJSON bool) error {
	for i, s := range stores {
		st, err := s.Stats(ctx)
		switch {
		case err != nil && len(stores) > 1:
			return fmt.Errorf("outbox %s: %w", names[i], err)
		case err == nil && asJSON:
			err = encodeLine(a.stdout, newCounts(names[i], &st))
		case err == nil:
			if len(stores) > 1 {
				fmt.Fprintf(a.stdout, "%soutbox %s\n", map[bool]string{true: "\n"}[i > 0], names[i])
			}
			err = writeStats(a.stdout, &st)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// counts are the figures for machines: durations in seconds.
type counts struct {
	Outbox string `json:"outbox"`
	store.Stats
	Oldest     float64       `json:"oldest_seconds"`
	OldestDead float64       `json:"oldest_dead_seconds"`
	Routes     []routeCounts `json:"routes"`
	Pauses     []pauseWords  `json:"pauses"`
	Relays     []relayCounts `json:"relays"`
}

type routeCounts struct {
	store.RouteStats
	Oldest float64 `json:"oldest_seconds"`
}

type relayCounts struct {
	store.RelayInfo
	Left float64 `json:"lease_ends_in_seconds"`
}

type pauseWords struct {
	Topic  string `json:"topic"`
	Tenant string `json:"tenant"`
	Key    string `json:"key"`
}

func newCounts(outbox string, st *store.Stats) counts {
	c := counts{
		Outbox: outbox, Stats: *st, Oldest: st.Oldest.Seconds(), OldestDead: st.OldestDead.Seconds(),
		Routes: []routeCounts{}, Pauses: []pauseWords{}, Relays: []relayCounts{},
	}
	for _, r := range st.Routes {
		c.Routes = append(c.Routes, routeCounts{r, r.Oldest.Seconds()})
	}
	for _, r := range st.Relays {
		c.Relays = append(c.Relays, relayCounts{r, r.Left.Seconds()})
	}
	for _, p := range st.Pauses {
		c.Pauses = append(c.Pauses, pauseWords(p))
	}
	return c
}

// writeStats writes the figures for people.
func writeStats(w io.Writer, st *store.Stats) error {
	t := newTable(w)
	line := func(name string, n int64, oldest time.Duration) {
		fmt.Fprintf(t, "%s\t%d", name, n)
		if oldest > 0 {
			fmt.Fprintf(t, "\toldest %s", roughly(oldest))
		}
		fmt.Fprintln(t)
	}
	line("pending", st.Pending, st.Oldest)
	line("  waiting for another attempt", st.Waiting, 0)
	line("  blocked", st.Blocked, 0)
	for _, r := range st.Routes {
		if len(st.Routes) > 1 || r.Route != "" {
			line("  on route "+cell(r.Route), r.Pending, r.Oldest)
		}
	}
	line("scheduled", st.Scheduled, 0)
	line("dead", st.Dead, st.OldestDead)
	line("  parked keys", st.ParkedKeys, 0)
	line("sent and kept", st.Kept, 0)
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range st.Pauses {
		fmt.Fprintf(w, "paused: %s\n", printable(pauseText(p)))
	}
	for _, route := range unattended(st) {
		fmt.Fprintf(w, "warning: no relay drains the route %s: run one, or add it to \"routes\"\n", cell(route))
	}
	if len(st.Relays) == 0 {
		_, err := fmt.Fprintln(w, "no relay is alive")
		return err
	}
	t = newTable(w)
	fmt.Fprintln(t, "\nRELAY\tROUTE\tSHARDS\tMESSAGES/S\tSINCE")
	for _, r := range st.Relays {
		fmt.Fprintf(t, "%s\t%s\t%d\t%.0f\t%s\n", cell(r.Name), cell(r.Route), r.Shards, r.Rate, moment(r.Since))
	}
	return t.Flush()
}

// unattended returns the routes with messages that no relay drains. The way of all is
// not among them: where it has none, stats shows it.
func unattended(st *store.Stats) (routes []string) {
	for _, r := range st.Routes {
		drains := func(relay store.RelayInfo) bool { return relay.Route == r.Route }
		if r.Route != "" && r.Pending > 0 && !slices.ContainsFunc(st.Relays, drains) {
			routes = append(routes, r.Route)
		}
	}
	return routes
}
