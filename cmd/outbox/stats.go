package main

import (
	"fmt"
	"io"
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
does so again and again, until SIGINT or SIGTERM.`,
		Example: `  outbox stats --config /etc/outbox.yaml
  outbox stats --watch 5s
  outbox stats --json`,
		Args: cobra.NoArgs,
	}
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object, each time")
	watch := cmd.Flags().Duration("watch", 0, "`interval` after which to count again")
	return a.administer(cmd,
		func(l *config.Loaded, _ []string) {
			if *watch < 0 || *watch > 0 && *watch < time.Second {
				l.Add(config.Problem{Key: "--watch", Value: watch.String(), Reason: "must be at least 1s"})
			}
		},
		func(cmd *cobra.Command, s wire.Store, _ []string) error {
			ctx := cmd.Context()
			for {
				st, err := s.Stats(ctx)
				if err == nil && *asJSON {
					err = encodeLine(a.stdout, newCounts(&st))
				} else if err == nil {
					err = writeStats(a.stdout, &st)
				}
				switch {
				case ctx.Err() != nil && *watch > 0:
					return nil
				case err != nil || *watch == 0:
					return err
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(*watch):
					if !*asJSON {
						fmt.Fprintln(a.stdout)
					}
				}
			}
		})
}

// counts are the figures for machines: durations in seconds.
type counts struct {
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

func newCounts(st *store.Stats) counts {
	c := counts{
		Stats: *st, Oldest: st.Oldest.Seconds(), OldestDead: st.OldestDead.Seconds(),
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
