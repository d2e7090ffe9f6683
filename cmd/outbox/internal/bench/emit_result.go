package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// EmitResult is what a run of [Emit] has shown.
type EmitResult struct {
	Variants   []EmitVariant `json:"variants"`
	Committed  int           `json:"committed"` // transactions, warming up included
	RolledBack int           `json:"rolled_back"`
	Lost       int           `json:"lost"`    // committed without their message
	Phantom    int           `json:"phantom"` // messages of what was not committed

	// WakeUpCost is the share of the rate that Wake after the commit takes while no
	// relay waits: of emit against emit-no-wake. The others are what it takes that a
	// relay waits to be notified: of emit-armed against emit, and of intx-armed against
	// intx. On PostgreSQL alone.
	WakeUpCost          *EmitSpread `json:"wake_up_cost,omitempty"`
	WakeUpCostArmed     *EmitSpread `json:"wake_up_cost_armed,omitempty"`
	WakeUpCostInTxArmed *EmitSpread `json:"wake_up_cost_intx_armed,omitempty"`

	Conditions Conditions   `json:"conditions"`
	Settings   EmitSettings `json:"settings"`
}

// EmitSettings are those of the run.
type EmitSettings struct {
	Database    string  `json:"database"`
	Connections int     `json:"connections"`
	Rounds      int     `json:"rounds"`
	SliceMS     float64 `json:"slice_ms"`
	Payload     int     `json:"payload_bytes"`
}

// EmitVariant is what a variant has shown. The ratios are those in each round.
type EmitVariant struct {
	Name                  string     `json:"name"`
	TransactionsPerSecond EmitSpread `json:"transactions_per_second"`

	// Ratio is the rate against that of none, and RatioToCounterpart against that of
	// Counterpart, the variant without the outbox that sends its statements likewise.
	Ratio              EmitSpread `json:"ratio"`
	Counterpart        string     `json:"counterpart"`
	RatioToCounterpart EmitSpread `json:"ratio_to_counterpart"`

	means string
}

// EmitSpread is of the rounds.
type EmitSpread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func (r *emitRun) result(conditions Conditions) *EmitResult {
	database := wire.DatabaseKind(r.DatabaseURL)
	if database == "" {
		database = wire.SQLite
	}
	result := &EmitResult{
		Committed: r.committed, RolledBack: r.rolledBk, Lost: r.lost, Phantom: r.phantom,
		WakeUpCost: r.cost("emit", "emit-no-wake"), WakeUpCostArmed: r.cost("emit-armed", "emit"), WakeUpCostInTxArmed: r.cost("intx-armed", "intx"),
		Conditions: conditions,
		Settings: EmitSettings{
			Database: database, Connections: r.Connections, Rounds: r.Rounds, SliceMS: float64(r.Slice.Microseconds()) / 1000, Payload: r.Payload,
		},
	}
	for i, v := range r.variants {
		result.Variants = append(result.Variants, EmitVariant{
			Name: v.name, means: v.means, TransactionsPerSecond: spreadOf(r.rates(i)),
			Ratio: r.ratio(v.name, "none"), Counterpart: v.plain, RatioToCounterpart: r.ratio(v.name, v.plain),
		})
	}
	return result
}

// rates returns those of a variant, by round.
func (r *emitRun) rates(variant int) []float64 {
	rates := make([]float64, len(r.slices[variant]))
	for i, s := range r.slices[variant] {
		rates[i] = s.perSecond
	}
	return rates
}

// place returns where the variant of that name is, -1 if there is none.
func (r *emitRun) place(name string) int {
	return slices.IndexFunc(r.variants, func(v emitVariant) bool { return v.name == name })
}

// ratio returns the spread of the rate of one against that of the other in each round.
func (r *emitRun) ratio(one, other string) EmitSpread {
	ratios, others := r.rates(r.place(one)), r.rates(r.place(other))
	for i := range ratios {
		ratios[i] /= others[i]
	}
	return spreadOf(ratios).rounded(3)
}

// cost returns the share of the rate of without that one lacks, nil if one of them is none of
// the variants.
func (r *emitRun) cost(one, without string) *EmitSpread {
	if r.place(one) < 0 || r.place(without) < 0 {
		return nil
	}
	ratio := r.ratio(one, without)
	cost := EmitSpread{Median: 1 - ratio.Median, Min: 1 - ratio.Max, Max: 1 - ratio.Min}.rounded(3)
	return &cost
}

// spreadOf returns the spread of values, of which there is at least one.
func spreadOf(values []float64) EmitSpread {
	values = slices.Sorted(slices.Values(values))
	middle := len(values) / 2
	median := values[middle]
	if len(values)%2 == 0 {
		median = (values[middle-1] + values[middle]) / 2
	}
	return EmitSpread{Median: median, Min: values[0], Max: values[len(values)-1]}
}

func (s EmitSpread) rounded(digits int) EmitSpread {
	return EmitSpread{round(s.Median, digits), round(s.Min, digits), round(s.Max, digits)}
}

func round(x float64, digits int) float64 {
	power := math.Pow10(digits)
	return math.Round(x*power) / power
}

// Err returns nil if each message was there with its transaction, and only with it.
func (r *EmitResult) Err() error {
	if r.Lost+r.Phantom == 0 {
		return nil
	}
	return fmt.Errorf("the outbox did not keep its promise: %d lost, %d phantom", r.Lost, r.Phantom)
}

// WriteJSON writes r as one object.
func (r *EmitResult) WriteJSON(w io.Writer) error {
	rounded := *r
	rounded.Variants = slices.Clone(r.Variants)
	for i := range rounded.Variants {
		s := &rounded.Variants[i].TransactionsPerSecond
		*s = s.rounded(1)
	}
	return json.NewEncoder(w).Encode(&rounded)
}

// WriteTable writes r for people.
func (r *EmitResult) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, at once %d transactions, payload %d bytes, %d slices of %v ms for each variant, in turns\n%s\n",
		r.Settings.Database, r.Settings.Connections, r.Settings.Payload, r.Settings.Rounds, r.Settings.SliceMS, &r.Conditions)
	fmt.Fprintf(&b, "  %-20s %14s %15s %8s %8s\n", "", "transactions/s", "least to most", "of none", "of")
	for _, v := range r.Variants {
		s := v.TransactionsPerSecond
		fmt.Fprintf(&b, "  %-20s %14.0f %15s %8.2f %8.2f  %s\n", v.Name, s.Median, fmt.Sprintf("%.0f-%.0f", s.Min, s.Max), v.Ratio.Median, v.RatioToCounterpart.Median, v.Counterpart)
	}
	b.WriteByte('\n')
	for _, v := range r.Variants {
		fmt.Fprintf(&b, "  %-20s %s\n", v.Name, v.means)
	}
	b.WriteByte('\n')
	if r.WakeUpCost != nil {
		percent := func(s *EmitSpread) string {
			return fmt.Sprintf("%.1f %% (%.1f to %.1f)", 100*s.Median, 100*s.Min, 100*s.Max)
		}
		fmt.Fprintf(&b, "  Wake takes %s of the rate while no relay waits.\n", percent(r.WakeUpCost))
		fmt.Fprintf(&b, "  That a relay waits to be notified takes %s, by InTx %s.\n", percent(r.WakeUpCostArmed), percent(r.WakeUpCostInTxArmed))
	}
	fmt.Fprintf(&b, "  Committed %d, rolled back %d, messages lost %d, phantom %d.\n", r.Committed, r.RolledBack, r.Lost, r.Phantom)
	_, err := io.WriteString(w, b.String())
	return err
}
