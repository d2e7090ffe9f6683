package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Result is what a run has shown.
type Result struct {
	Committed         int     `json:"committed"`
	RolledBack        int     `json:"rolled_back"`
	Delivered         int     `json:"delivered"` // different messages
	Duplicates        int     `json:"duplicates"`
	Lost              int     `json:"lost"`         // committed, not delivered
	Phantom           int     `json:"phantom"`      // delivered, not committed
	OutOfOrder        int     `json:"out_of_order"` // first delivered after a later one of their key
	MessagesPerSecond float64 `json:"messages_per_second"`

	// From just before the commit to the handler's start.
	LatencyP50 float64 `json:"latency_p50_ms"`
	LatencyP99 float64 `json:"latency_p99_ms"`
}

// Err returns nil if the run has shown what was promised.
func (r *Result) Err() error {
	if r.Lost+r.Phantom+r.OutOfOrder == 0 {
		return nil
	}
	return fmt.Errorf("the outbox did not keep its promise: %d lost, %d phantom, %d out of order", r.Lost, r.Phantom, r.OutOfOrder)
}

// WriteJSON writes r as one object.
func (r *Result) WriteJSON(w io.Writer) error {
	rounded := *r
	for _, figure := range []*float64{&rounded.MessagesPerSecond, &rounded.LatencyP50, &rounded.LatencyP99} {
		*figure = float64(int64(*figure*10+0.5)) / 10
	}
	return json.NewEncoder(w).Encode(&rounded)
}

// WriteTable writes r for people.
func (r *Result) WriteTable(w io.Writer) error {
	var b strings.Builder
	row := func(name, value, unit string) { fmt.Fprintf(&b, "  %-20s %12s %s\n", name, value, unit) }
	row("committed", thousands(r.Committed), "orders with their messages")
	row("rolled back", thousands(r.RolledBack), "after the emit")
	row("delivered", thousands(r.Delivered), "messages")
	row("duplicates", thousands(r.Duplicates), "")
	row("lost", thousands(r.Lost), "")
	row("phantom", thousands(r.Phantom), "")
	row("out of order", thousands(r.OutOfOrder), "")
	row("throughput", thousands(int(r.MessagesPerSecond)), "messages/s")
	row("latency, median", fmt.Sprintf("%.1f", r.LatencyP50), "ms from commit to handler")
	row("latency, 99 %", fmt.Sprintf("%.1f", r.LatencyP99), "ms")
	lines := strings.Split(b.String(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n"))
	return err
}

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
