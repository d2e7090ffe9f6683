package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/measure"
)

// Result is what [Drain] or [Limit] has shown.
type Result struct {
	Benchmark string `json:"benchmark"`
	measure.Verdict
	RolledBack int       `json:"rolled_back"`
	Seconds    float64   `json:"seconds"`
	Tenths     []float64 `json:"tenths,omitempty"` // messages per second of each tenth of those that arrived

	// Of this process, from the start of the relays on: with servers and consumer, where
	// those are in it.
	CPUSeconds   float64 `json:"cpu_seconds"`
	PeakRSSBytes int64   `json:"peak_rss_bytes"`

	// Of the relays' own processes: the time of all, the memory of the greatest.
	RelayCPUSeconds   float64 `json:"relay_cpu_seconds,omitempty"`
	RelayPeakRSSBytes int64   `json:"relay_peak_rss_bytes,omitempty"`

	Conditions Conditions `json:"conditions"`
	Settings   Settings   `json:"settings"`
}

// Settings are what was asked for.
type Settings struct {
	Messages     int    `json:"messages"`
	Keys         int    `json:"keys"`
	PayloadBytes int    `json:"payload_bytes"`
	Order        string `json:"order,omitempty"`
	Relays       int    `json:"relays,omitempty"`
	RelayProcess bool   `json:"relay_process,omitempty"`
	Window       int    `json:"window"`
	Connections  int    `json:"connections"`
	QueueType    string `json:"queue_type,omitempty"` // RabbitMQ
	Consumer     bool   `json:"consumer"`
	Prefetch     int    `json:"prefetch"`
	HoldSnapshot bool   `json:"hold_snapshot,omitempty"`
	IdleOutboxes int    `json:"idle_outboxes,omitempty"`
}

// result is what t and its judge know, also of a run that was not finished.
func (t *traffic) result(benchmark string, c Conditions, committed, rolledBack int) *Result {
	r := &Result{
		Benchmark: benchmark, Verdict: t.tally.Verdict(committed), RolledBack: rolledBack, Seconds: t.took.Seconds(),
		CPUSeconds: t.usedHere.CPU.Seconds(), PeakRSSBytes: t.usedHere.PeakRSS,
		RelayCPUSeconds: t.usedAway.CPU.Seconds(), RelayPeakRSSBytes: t.usedAway.PeakRSS,
		Conditions: c, Settings: t.settings(),
	}
	if t.NoConsumer {
		r.MessagesPerSecond = float64(r.Delivered) / max(r.Seconds, 1e-9)
	} else {
		r.Tenths = t.tally.Tenths()
	}
	for _, figure := range append([]*float64{&r.MessagesPerSecond}, pointers(r.Tenths)...) {
		*figure = float64(int64(*figure*10+0.5)) / 10
	}
	return r
}

func pointers(list []float64) (all []*float64) {
	for i := range list {
		all = append(all, &list[i])
	}
	return all
}

func (t *traffic) settings() Settings {
	s := Settings{
		Messages: t.Messages, Keys: t.Keys, PayloadBytes: t.Payload, Window: t.Relay.Window, Connections: max(1, t.broker.Connections),
		Consumer: !t.NoConsumer, Prefetch: t.Prefetch,
	}
	if wire.BrokerKind(t.broker.URL) == wire.RabbitMQ {
		s.QueueType = "quorum"
		if t.broker.QueueType != "" {
			s.QueueType = t.broker.QueueType
		}
	}
	return s
}

// WriteJSON writes r as one object.
func (r *Result) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(r) }

// WriteTable writes r for people.
func (r *Result) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n%s\n", r.Benchmark, r.Settings.String(), r.Conditions.String())
	row := func(name, value, unit string) {
		b.WriteString(strings.TrimRight(fmt.Sprintf("  %-20s %12s %s", name, value, unit), " ") + "\n")
	}
	row("throughput", thousands(int(r.MessagesPerSecond)), "messages/s")
	row("delivered", thousands(r.Delivered), fmt.Sprintf("messages in %.2f s", r.Seconds))
	row("duplicates", thousands(r.Duplicates), "")
	row("lost", thousands(r.Lost), "")
	row("phantom", thousands(r.Phantom), "")
	row("out of order", thousands(r.OutOfOrder), "")
	row("CPU", fmt.Sprintf("%.2f", r.CPUSeconds), "s of this process")
	row("memory", mebibytes(r.PeakRSSBytes), "MiB of this process at most")
	if r.Settings.RelayProcess {
		row("relays' CPU", fmt.Sprintf("%.2f", r.RelayCPUSeconds), "s")
		row("relays' memory", mebibytes(r.RelayPeakRSSBytes), "MiB of one at most")
	}
	if len(r.Tenths) > 0 {
		var rates []string
		for _, rate := range r.Tenths {
			rates = append(rates, thousands(int(rate)))
		}
		fmt.Fprintf(&b, "  by tenths: %s messages/s\n", strings.Join(rates, "  "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// String is the settings in a line.
func (s *Settings) String() string {
	parts := []string{thousands(s.Messages) + " messages of " + thousands(s.PayloadBytes) + " bytes", thousands(s.Keys) + " keys"}
	add := func(ok bool, format string, args ...any) {
		if ok {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(s.Order != "", "%s order", s.Order)
	add(s.Relays > 0, "relays: %d", s.Relays)
	add(s.RelayProcess, "each relay a process")
	add(true, "window %d", s.Window)
	add(s.Connections > 1, "%d connections", s.Connections)
	add(s.QueueType != "", "%s queue", s.QueueType)
	add(s.Consumer, "prefetch %d", s.Prefetch)
	add(!s.Consumer, "no consumer")
	add(s.HoldSnapshot, "a snapshot held")
	add(s.IdleOutboxes > 0, "%d idle outboxes", s.IdleOutboxes)
	return strings.Join(parts, ", ")
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f", float64(n)/(1<<20)) }

// thousands writes n in groups of three digits.
func thousands(n int) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(digit)
	}
	return b.String()
}
