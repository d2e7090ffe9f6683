package measure

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Latencies is a distribution.
type Latencies struct {
	sorted []int64 // nanoseconds
}

func newLatencies(nanoseconds []int64) Latencies { return Latencies{sortedCopy(nanoseconds)} }

func sortedCopy(list []int64) []int64 {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// Len returns how many there are.
func (l Latencies) Len() int { return len(l.sorted) }

// Percentile returns the latency that p of 100 do not exceed, zero if there are none.
func (l Latencies) Percentile(p float64) time.Duration {
	if len(l.sorted) == 0 {
		return 0
	}
	place := int(float64(len(l.sorted))*p/100+0.999999) - 1
	return time.Duration(l.sorted[min(max(place, 0), len(l.sorted)-1)])
}

// Bucket is a bar of a histogram.
type Bucket struct {
	UpTo  time.Duration // inclusive
	Count int
}

// Histogram returns the distribution in buckets that end at 1, 2 and 5 times the powers
// of ten from 100 us on, without the empty ones at both ends.
func (l Latencies) Histogram() []Bucket {
	var buckets []Bucket
	at := 0
	for power := 100 * time.Microsecond; at < len(l.sorted); power *= 10 {
		for _, factor := range [...]time.Duration{1, 2, 5} {
			b := Bucket{UpTo: power * factor}
			for at < len(l.sorted) && l.sorted[at] <= int64(b.UpTo) {
				at++
				b.Count++
			}
			if b.Count > 0 || len(buckets) > 0 && at < len(l.sorted) {
				buckets = append(buckets, b)
			}
		}
	}
	return buckets
}

// WriteHistogram draws the histogram with text.
func (l Latencies) WriteHistogram(w io.Writer) error {
	const width = 50
	most := 0
	buckets := l.Histogram()
	for _, b := range buckets {
		most = max(most, b.Count)
	}
	for _, b := range buckets {
		bar := strings.Repeat("#", (b.Count*width+most-1)/most)
		if _, err := fmt.Fprintf(w, "  up to %-7v %9d %6.2f %%  %s\n", b.UpTo, b.Count, 100*float64(b.Count)/float64(l.Len()), bar); err != nil {
			return err
		}
	}
	return nil
}
