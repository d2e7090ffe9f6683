package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// SteadyResult is what [Steady] has shown.
type SteadyResult struct {
	Benchmark string `json:"benchmark"`
	measure.Verdict
	RolledBack int `json:"rolled_back"`

	// From just before the commit is sent to the handler, without the warming up.
	LatencyP50 float64        `json:"latency_p50_ms"`
	LatencyP90 float64        `json:"latency_p90_ms"`
	LatencyP99 float64        `json:"latency_p99_ms"`
	LatencyMax float64        `json:"latency_max_ms"`
	Histogram  []SteadyBucket `json:"histogram"`

	// The rates are of transactions. Lateness is how long after its time a transaction
	// began.
	OfferedPerSecond  float64 `json:"offered_per_second"`
	AchievedPerSecond float64 `json:"achieved_per_second"`
	LatenessP99       float64 `json:"lateness_p99_ms"`

	// Of this process, which emits and consumes, and of the relay's own, if it has one.
	CPUSeconds        float64 `json:"cpu_seconds"`
	PeakRSSBytes      int64   `json:"peak_rss_bytes"`
	RelayCPUSeconds   float64 `json:"relay_cpu_seconds,omitempty"`
	RelayPeakRSSBytes int64   `json:"relay_peak_rss_bytes,omitempty"`

	Conditions Conditions     `json:"conditions"`
	Settings   SteadySettings `json:"settings"`

	latencies measure.Latencies
}

// SteadyBucket is a bar of the histogram.
type SteadyBucket struct {
	UpTo  float64 `json:"up_to_ms"` // inclusive
	Count int     `json:"count"`
}

// SteadySettings are what was asked for.
type SteadySettings struct {
	Rate            float64 `json:"rate"`
	DurationSeconds float64 `json:"duration_seconds"`
	WarmUpSeconds   float64 `json:"warm_up_seconds"`
	Emitters        int     `json:"emitters"`
	Keys            int     `json:"keys"`
	PayloadBytes    int     `json:"payload_bytes"`
	HoldMS          float64 `json:"hold_ms"`
	HoldShare       float64 `json:"hold_share"`
	Relay           string  `json:"relay"` // here, process or none
	QueueType       string  `json:"queue_type,omitempty"`
	Prefetch        int     `json:"prefetch"`
}

func (s *steady) result(c Conditions) *SteadyResult {
	latencies := s.traffic.tally.Latencies()
	achieved, late := s.emitters.achieved()
	r := &SteadyResult{
		Benchmark: "steady", Verdict: s.traffic.tally.Verdict(s.Messages), RolledBack: int(s.emitters.rolledBack.Load()),
		LatencyP50: milliseconds(latencies.Percentile(50)), LatencyP90: milliseconds(latencies.Percentile(90)),
		LatencyP99: milliseconds(latencies.Percentile(99)), LatencyMax: milliseconds(latencies.Percentile(100)),
		Histogram:        []SteadyBucket{},
		OfferedPerSecond: s.Rate, AchievedPerSecond: round(achieved, 1), LatenessP99: milliseconds(late),
		CPUSeconds: s.traffic.usedHere.CPU.Seconds(), PeakRSSBytes: s.traffic.usedHere.PeakRSS,
		RelayCPUSeconds: s.traffic.usedAway.CPU.Seconds(), RelayPeakRSSBytes: s.traffic.usedAway.PeakRSS,
		Conditions: c, Settings: s.settings(), latencies: latencies,
	}
	r.MessagesPerSecond = round(r.MessagesPerSecond, 1)
	for _, b := range latencies.Histogram() {
		r.Histogram = append(r.Histogram, SteadyBucket{milliseconds(b.UpTo), b.Count})
	}
	return r
}

func (s *steady) settings() SteadySettings {
	settings := SteadySettings{
		Rate: s.Rate, DurationSeconds: s.Duration.Seconds(), WarmUpSeconds: s.WarmUp.Seconds(), Emitters: s.Emitters,
		Keys: s.Keys, PayloadBytes: s.Payload, HoldMS: milliseconds(s.Hold), HoldShare: s.HoldShare, Relay: "here", Prefetch: s.Prefetch,
	}
	switch {
	case s.Elsewhere != nil:
		settings.Relay = "none"
	case s.Process != nil:
		settings.Relay = "process"
	}
	if wire.BrokerKind(s.traffic.broker.URL) == wire.RabbitMQ {
		settings.QueueType = "quorum"
		if s.traffic.broker.QueueType != "" {
			settings.QueueType = s.traffic.broker.QueueType
		}
	}
	return settings
}

// milliseconds returns d with three digits.
func milliseconds(d time.Duration) float64 { return round(float64(d)/float64(time.Millisecond), 3) }

// Err returns nil if all arrived as promised.
func (r *SteadyResult) Err() error {
	if r.Lost+r.Phantom+r.OutOfOrder == 0 {
		return nil
	}
	return fmt.Errorf("the outbox did not keep its promise: %d lost, %d phantom, %d out of order", r.Lost, r.Phantom, r.OutOfOrder)
}

// WriteJSON writes r as one object.
func (r *SteadyResult) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// reached is the share of the offered rate that is as good as all of it.
const reached = 0.98

// WriteTable writes r for people.
func (r *SteadyResult) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n%s\n", r.Benchmark, r.Settings.String(), r.Conditions.String())
	row := func(name, value, unit string) {
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %-20s %12s %s", name, value, unit), " ") + "\n")
	}
	row("latency, median", fmt.Sprintf("%.2f", r.LatencyP50), "ms from just before the commit to the handler")
	row("latency, 90 %", fmt.Sprintf("%.2f", r.LatencyP90), "ms")
	row("latency, 99 %", fmt.Sprintf("%.2f", r.LatencyP99), "ms")
	row("latency, greatest", fmt.Sprintf("%.2f", r.LatencyMax), "ms")
	row("transactions", fmt.Sprintf("%.0f", r.AchievedPerSecond), fmt.Sprintf("a second, of %.0f that were offered", r.OfferedPerSecond))
	row("began late, 99 %", fmt.Sprintf("%.2f", r.LatenessP99), "ms")
	row("committed", thousands(r.Committed), fmt.Sprintf("with their messages, and %s rolled back", thousands(r.RolledBack)))
	row("delivered", thousands(r.Delivered), "messages")
	row("duplicates", thousands(r.Duplicates), "")
	row("lost", thousands(r.Lost), "")
	row("phantom", thousands(r.Phantom), "")
	row("out of order", thousands(r.OutOfOrder), "")
	row("CPU", fmt.Sprintf("%.2f", r.CPUSeconds), "s of this process")
	if r.Settings.Relay == "process" {
		row("relay's CPU", fmt.Sprintf("%.2f", r.RelayCPUSeconds), "s")
		row("relay's memory", mebibytes(r.RelayPeakRSSBytes), "MiB at most")
	}
	if r.AchievedPerSecond < reached*r.OfferedPerSecond {
		b.WriteString("\n  The rate was not reached: give more --emitters, or a lower --rate. Latency is that of the rate that was.\n")
	}
	b.WriteByte('\n')
	if _, err := io.WriteString(w, b.String()); err != nil {
		return err
	}
	return r.latencies.WriteHistogram(w)
}

// String is the settings in a line.
func (s *SteadySettings) String() string {
	text := fmt.Sprintf("%v/s for %vs after %vs of warming up, %d emitters, %s keys, payload %s bytes, relay %s",
		s.Rate, s.DurationSeconds, s.WarmUpSeconds, s.Emitters, thousands(s.Keys), thousands(s.PayloadBytes), s.Relay)
	if s.HoldMS > 0 && s.HoldShare > 0 {
		text += fmt.Sprintf(", %.0f %% held open for %v ms", 100*s.HoldShare, s.HoldMS)
	}
	if s.QueueType != "" {
		text += ", " + s.QueueType + " queue"
	}
	return text + fmt.Sprintf(", prefetch %d", s.Prefetch)
}
