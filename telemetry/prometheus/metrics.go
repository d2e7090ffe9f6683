package promoutbox

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// Config tells the metrics of several relays and outboxes apart. Those that are in
// one registry must differ.
type Config struct {
	// Outbox is the label outbox. Defaults to none.
	Outbox string

	// Route is the label route, of a relay's metrics alone. Defaults to none, which
	// is the route of a relay that is bound to none.
	Route string

	// Router says that the relay is one of [relay.NewRouter], which has no broker: it
	// has outbox_dispatched_total in the place of a broker's metrics.
	Router bool
}

var (
	_ prometheus.Collector   = (*Metrics)(nil)
	_ relay.PublishHook      = (*Metrics)(nil)
	_ relay.AnswerHook       = (*Metrics)(nil)
	_ relay.ReadHook         = (*Metrics)(nil)
	_ relay.SettleHook       = (*Metrics)(nil)
	_ relay.LeaseHook        = (*Metrics)(nil)
	_ relay.AvailabilityHook = (*Metrics)(nil)
	_ relay.DeadHook         = (*Metrics)(nil)
)

// Metrics are those of one relay: a [relay.Hook] and a [prometheus.Collector]. Make
// it with [New].
type Metrics struct {
	published, refused, unavailable   prometheus.Counter
	retries                           prometheus.Counter
	dispatched                        prometheus.Counter // nil unless it is a router's
	settled, settleErrors             prometheus.Counter
	readRows, readErrors              prometheus.Counter
	outages, reconnects               prometheus.Counter
	dead                              *prometheus.CounterVec
	publishTook, settleTook, readTook prometheus.Histogram
	shards, relays, up                prometheus.Gauge

	all     []prometheus.Collector
	watched [4]*prometheus.Desc // of what the relay itself is asked for
	relay   atomic.Pointer[relay.Relay]
}

// buckets are of seconds, from half a millisecond to half a minute.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// New returns the metrics of one relay, to be among its Config.Hooks. A config may
// be nil.
func New(config *Config) *Metrics {
	if config == nil {
		config = &Config{}
	}
	labels := prometheus.Labels{"outbox": config.Outbox, "route": config.Route}
	m := &Metrics{}
	f := factory{labels: labels}
	m.ofBroker(&f)
	ofBroker := len(f.all)
	m.dead = f.counterBy("outbox_dead_total", "Messages that became dead letters.", "reason")
	m.settled = f.counter("outbox_settled_total", "Confirmed messages that were removed from the outbox.")
	m.settleErrors = f.counter("outbox_settle_errors_total", "Batches of confirmed messages that could not be removed; they are tried again.")
	m.readRows = f.counter("outbox_read_messages_total", "Messages read from the outbox.")
	m.readErrors = f.counter("outbox_read_errors_total", "Reads of the outbox that failed; they are tried again.")
	m.settleTook = f.histogram("outbox_settle_duration_seconds", "Time to remove a batch of confirmed messages.")
	m.readTook = f.histogram("outbox_read_duration_seconds", "Time of a read of the outbox.")
	m.shards = f.gauge("outbox_shards", "Shards that this relay owns.")
	m.relays = f.gauge("outbox_relays", "Relays of the outbox and route that are alive, as this one sees it.")
	m.all = f.all
	if config.Router {
		m.dispatched = f.counter("outbox_dispatched_total", "Messages that took their routes.")
		m.all = f.all[ofBroker:]
	}
	m.watched = [...]*prometheus.Desc{
		f.desc("outbox_in_flight_messages", "Messages that were sent and are not answered yet."),
		f.desc("outbox_window_messages", "The greatest number of messages in flight."),
		f.desc("outbox_held_messages", "Messages in this relay's memory that wait for another attempt, a rate or the end of a pause."),
		f.desc("outbox_relay_ready", "1 while this relay makes progress, as /readyz has it, else 0."),
	}
	for _, reason := range []store.Reason{store.Exhausted, store.Invalid, store.Expired, store.Parked, store.Unrouted} {
		m.dead.WithLabelValues(string(reason)) // so that the first one is an increase
	}
	return m
}

// ofBroker makes the metrics that a relay with a broker has.
func (m *Metrics) ofBroker(f *factory) {
	m.published = f.counter("outbox_published_total", "Messages that the broker confirmed.")
	m.refused = f.counter("outbox_refused_total", "Answers of the broker that it does not take a message now; each is an attempt.")
	m.retries = f.counter("outbox_retries_total", "Sends of messages that were refused before.")
	m.unavailable = f.counter("outbox_unavailable_total", "Messages that were sent and not answered, or could not be sent; they are sent again and no attempt counts.")
	m.outages = f.counter("outbox_broker_outages_total", "How often the broker went away.")
	m.reconnects = f.counter("outbox_broker_reconnects_total", "How often the broker came back.")
	m.publishTook = f.histogram("outbox_publish_duration_seconds", "Time from sending a message to the broker's confirm.")
	m.up = f.gauge("outbox_broker_up", "1 while the broker takes messages, 0 while it is away.")
	m.up.Set(1)
}

// Watch adds what the relay itself says: what is in flight and whether it is ready.
func (m *Metrics) Watch(r *relay.Relay) { m.relay.Store(r) }

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(ch)
	}
	for _, d := range m.watched {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(ch)
	}
	r := m.relay.Load()
	if r == nil {
		return
	}
	s, ready := r.Stats(), 1
	if r.Ready() != nil {
		ready = 0
	}
	for i, value := range [...]int{s.InFlight, s.Window, s.Waiting, ready} {
		ch <- prometheus.MustNewConstMetric(m.watched[i], prometheus.GaugeValue, float64(value))
	}
}

// Publishing implements [relay.PublishHook].
func (m *Metrics) Publishing(msg *outbox.Message) {
	if msg.Attempts > 0 {
		m.retries.Inc()
	}
}

// Answered implements [relay.AnswerHook].
func (m *Metrics) Answered(_ *outbox.Message, took time.Duration, err error) {
	switch {
	case m.dispatched != nil:
		if err == nil {
			m.dispatched.Inc()
		}
	case err == nil:
		m.published.Inc()
		m.publishTook.Observe(took.Seconds())
	case errors.Is(err, outbox.ErrUnavailable):
		m.unavailable.Inc()
	case !errors.Is(err, outbox.ErrInvalid): // which is dead at once, and counted as that
		m.refused.Inc()
	}
}

// Died implements [relay.DeadHook].
func (m *Metrics) Died(_ *outbox.Message, reason store.Reason, _ string) {
	m.dead.WithLabelValues(string(reason)).Inc()
}

// Read implements [relay.ReadHook].
func (m *Metrics) Read(rows int, took time.Duration, err error) {
	if err != nil {
		m.readErrors.Inc()
		return
	}
	m.readRows.Add(float64(rows))
	m.readTook.Observe(took.Seconds())
}

// Settled implements [relay.SettleHook].
func (m *Metrics) Settled(messages int, took time.Duration, err error) {
	if err != nil {
		m.settleErrors.Inc()
		return
	}
	m.settled.Add(float64(messages))
	m.settleTook.Observe(took.Seconds())
}

// Leased implements [relay.LeaseHook].
func (m *Metrics) Leased(shards, relays int) {
	m.shards.Set(float64(shards))
	m.relays.Set(float64(relays))
}

// Availability implements [relay.AvailabilityHook].
func (m *Metrics) Availability(err error) {
	if err != nil {
		m.up.Set(0)
		m.outages.Inc()
		return
	}
	m.up.Set(1)
	m.reconnects.Inc()
}

// factory makes metrics with the same labels.
type factory struct {
	labels prometheus.Labels
	all    []prometheus.Collector
}

func (f *factory) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: f.labels})
	f.all = append(f.all, c)
	return c
}

func (f *factory) counterBy(name, help, label string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: f.labels}, []string{label})
	f.all = append(f.all, c)
	return c
}

func (f *factory) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: f.labels})
	f.all = append(f.all, g)
	return g
}

func (f *factory) histogram(name, help string) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, ConstLabels: f.labels, Buckets: buckets})
	f.all = append(f.all, h)
	return h
}

func (f *factory) desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, f.labels)
}
