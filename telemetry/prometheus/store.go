package promoutbox

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-go/outbox/store"
)

const (
	// countInterval is the least time between two counts, and countShare how many
	// times as long as it takes must pass: counting takes at most 1 % of the time,
	// unless it is so slow that figures would be older than maxCountInterval.
	countInterval    = 10 * time.Second
	countShare       = 99
	maxCountInterval = 2 * time.Minute

	countTimeout = time.Minute
)

// Counter is the part of [store.Admin] that [Store] needs.
type Counter interface {
	Stats(ctx context.Context) (store.Stats, error)
}

// Store are the metrics of a whole outbox: a [prometheus.Collector] of what
// [Store.Run] counted last. Make it with [NewStore].
type Store struct {
	counter Counter
	counts  [8]*prometheus.Desc
	pending *prometheus.Desc
	oldest  *prometheus.Desc
	dead    *prometheus.Desc
	age     *prometheus.Desc
	took    prometheus.Gauge
	errors  prometheus.Counter

	mu   sync.Mutex
	last store.Stats
	at   time.Time // zero until there is a count
}

var _ prometheus.Collector = (*Store)(nil)

// NewStore returns the metrics of the outbox s. Of the config, which may be nil, the
// label Outbox counts.
func NewStore(s Counter, config *Config) *Store {
	if config == nil {
		config = &Config{}
	}
	f := factory{labels: prometheus.Labels{"outbox": config.Outbox}}
	return &Store{
		counter: s,
		pending: f.desc("outbox_pending_messages", "Messages that are to be sent, now or after a wait.", "route"),
		oldest:  f.desc("outbox_oldest_pending_seconds", "Age of the oldest message that is to be sent, 0 if there is none.", "route"),
		counts: [...]*prometheus.Desc{
			f.desc("outbox_retrying_messages", "Pending messages that were refused and wait for another attempt."),
			f.desc("outbox_blocked_messages", "Pending messages that hold up their key until somebody acts."),
			f.desc("outbox_scheduled_messages", "Messages that are not due yet."),
			f.desc("outbox_dead_messages", "Dead letters."),
			f.desc("outbox_parked_keys", "Keys whose messages go to the dead letters until they are redriven or discarded."),
			f.desc("outbox_kept_messages", "Messages in the history; an estimate on PostgreSQL."),
			f.desc("outbox_pauses", "What is held back by a pause."),
			f.desc("outbox_live_relays", "Relays of all routes that are alive."),
		},
		dead:   f.desc("outbox_oldest_dead_seconds", "Age of the oldest dead letter, 0 if there is none."),
		age:    f.desc("outbox_count_age_seconds", "How old these figures are: they are counted in the background."),
		took:   f.gauge("outbox_count_duration_seconds", "Time that the last count took."),
		errors: f.counter("outbox_count_errors_total", "Counts that failed."),
	}
}

// Run counts until ctx ends: every 10 s, less often where counting would take more
// than 1 % of the time or has failed, but with never more than 2 min between two
// counts.
func (s *Store) Run(ctx context.Context) {
	for failed := 0; ctx.Err() == nil; {
		took, err := s.count(ctx)
		wait := max(countInterval-took, countShare*took)
		if err == nil {
			failed = 0
		} else {
			// What a failed count took says nothing of what counting takes.
			wait = countInterval << min(failed, 10)
			failed++
		}
		select {
		case <-ctx.Done():
		case <-time.After(min(wait, maxCountInterval)):
		}
	}
}

// count counts once and returns how long that took.
func (s *Store) count(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	counting, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	stats, err := s.counter.Stats(counting)
	took := time.Since(begun)
	switch {
	case err == nil:
		s.took.Set(took.Seconds())
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last, s.at = stats, begun
	case ctx.Err() == nil:
		s.errors.Inc()
	}
	return took, err
}

// Describe implements [prometheus.Collector].
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	ch <- s.pending
	ch <- s.oldest
	for _, d := range s.counts {
		ch <- d
	}
	ch <- s.dead
	ch <- s.age
	s.took.Describe(ch)
	s.errors.Describe(ch)
}

// Collect implements [prometheus.Collector]. It asks no database; before the first
// count there are no figures.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	s.errors.Collect(ch)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() {
		return
	}
	s.took.Collect(ch)
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	last := &s.last
	for i, value := range [...]int64{
		last.Waiting, last.Blocked, last.Scheduled, last.Dead, last.ParkedKeys, last.Kept, int64(len(last.Pauses)), int64(len(last.Relays)),
	} {
		gauge(s.counts[i], float64(value))
	}
	gauge(s.dead, last.OldestDead.Seconds())
	gauge(s.age, time.Since(s.at).Seconds())
	// Emitters name routes as they like: only those of the last count have figures,
	// and those of relays that are alive, which thus go down to zero.
	byRoute := map[string]store.RouteStats{"": {}}
	for _, r := range last.Relays {
		byRoute[r.Route] = store.RouteStats{}
	}
	for _, r := range last.Routes {
		byRoute[r.Route] = r
	}
	for route, r := range byRoute {
		gauge(s.pending, float64(r.Pending), route)
		gauge(s.oldest, r.Oldest.Seconds(), route)
	}
}
