package report

import (
	"slices"
)

// Spread is what the rounds have in common.
type Spread struct {
	Median, Min, Max float64
	Rounds           int // 0 if nothing was measured
}

func spreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	median := sorted[middle]
	if len(sorted)%2 == 0 {
		median = (sorted[middle-1] + sorted[middle]) / 2
	}
	return Spread{Median: median, Min: sorted[0], Max: sorted[len(sorted)-1], Rounds: len(sorted)}
}

// byRound returns a figure's value of each round that has one.
func (m *Measurement) byRound(f Figure) map[int]float64 {
	values := map[int]float64{}
	for _, run := range m.Runs {
		if value, ok := run.Values[f.Value]; ok && run.System == f.System {
			values[run.Round] = value
		}
	}
	return values
}

// spread returns the spread of a figure over the rounds. A program that runs several
// rounds by itself reports a median, and the extremes by the names _min and _max.
func (m *Measurement) spread(f Figure) Spread {
	all := m.byRound(f)
	values := make([]float64, 0, len(all))
	for _, value := range all {
		values = append(values, value)
	}
	s := spreadOf(values)
	for _, least := range m.byRound(Figure{f.System, f.Value + "_min"}) {
		s.Min = min(s.Min, least)
	}
	for _, most := range m.byRound(Figure{f.System, f.Value + "_max"}) {
		s.Max = max(s.Max, most)
	}
	return s
}

// compare returns the spread of the ratios of each round: what disturbs a round
// disturbs both sides of its ratio.
func (m *Measurement) compare(c *Comparison) Spread {
	if c.To == (Figure{}) {
		return m.spread(c.Of)
	}
	of, to := m.byRound(c.Of), m.byRound(c.To)
	var ratios []float64
	for round, value := range of {
		if base := to[round]; base != 0 {
			ratios = append(ratios, value/base)
		}
	}
	return spreadOf(ratios)
}

// Has reports whether a figure was measured.
func (m *Measurement) Has(f Figure) bool { return len(m.byRound(f)) > 0 }
