package measure

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// deliver delivers messages of those numbers.
func deliver(t *Tally, numbers ...int) {
	for _, n := range numbers {
		t.Deliver(t.load.Body(n), time.Now())
	}
}

func TestTallyJudgesWhatArrives(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keys, committed int
		arrive          []int
		want            Verdict
	}{
		"all, in order":           {2, 4, []int{0, 1, 2, 3}, Verdict{Committed: 4, Delivered: 4}},
		"keys go their own ways":  {2, 4, []int{1, 3, 0, 2}, Verdict{Committed: 4, Delivered: 4}},
		"one lost":                {2, 4, []int{0, 1, 3}, Verdict{Committed: 4, Delivered: 3, Lost: 1}},
		"one twice":               {2, 4, []int{0, 1, 2, 3, 0}, Verdict{Committed: 4, Delivered: 4, Duplicates: 1}},
		"one overtaken":           {2, 4, []int{2, 0, 1, 3}, Verdict{Committed: 4, Delivered: 4, OutOfOrder: 1}},
		"repeats have no order":   {1, 3, []int{0, 1, 0, 1, 2}, Verdict{Committed: 3, Delivered: 3, Duplicates: 2}},
		"no keys, no order":       {0, 4, []int{3, 2, 1, 0}, Verdict{Committed: 4, Delivered: 4}},
		"not committed":           {2, 3, []int{0, 1, 2, 3}, Verdict{Committed: 3, Delivered: 4, Phantom: 1}},
		"of numbers never used":   {2, 4, []int{0, 1, 2, 3, 4, 5}, Verdict{Committed: 4, Delivered: 4, Phantom: 2}},
		"lost is one, not a late": {1, 4, []int{1, 2, 3}, Verdict{Committed: 4, Delivered: 3, Lost: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tally := NewTally(Load{Messages: 4, Keys: c.keys, Payload: 20})
			deliver(tally, c.arrive...)
			got := tally.Verdict(c.committed)
			got.MessagesPerSecond = 0
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if broken := c.want.Lost+c.want.Phantom+c.want.OutOfOrder > 0; (got.Err() != nil) != broken {
				t.Errorf("the verdict's error is %v", got.Err())
			}
			if tally.Deliveries() != len(c.arrive) {
				t.Errorf("%d deliveries, want %d", tally.Deliveries(), len(c.arrive))
			}
		})
	}
}

func TestTallyTakesAPayloadWithoutANumberForAPhantom(t *testing.T) {
	t.Parallel()
	tally := NewTally(Load{Messages: 1})
	tally.Deliver([]byte("short"), time.Now())
	if v := tally.Verdict(1); v.Phantom != 1 || v.Lost != 1 {
		t.Errorf("got %+v", v)
	}
}

func TestTallyIsDoneWhenAllHaveArrived(t *testing.T) {
	t.Parallel()
	done := func(tally *Tally) bool {
		select {
		case <-tally.Done():
			return true
		default:
			return false
		}
	}
	tally := NewTally(Load{Messages: 2})
	deliver(tally, 0, 0)
	if done(tally) {
		t.Error("done with one of two, which came twice")
	}
	deliver(tally, 1, 1)
	if !done(tally) || tally.Arrived() != 2 {
		t.Error("not done with both")
	}
}

func TestRatesAreFromTheStartAndTenthsFromTheFirstArrival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tally := NewTally(Load{Messages: 101, Keys: 1})
		time.Sleep(time.Hour)
		tally.Start()
		time.Sleep(time.Second)
		for n := range 101 {
			if n > 0 {
				time.Sleep(10 * time.Millisecond)
			}
			if n == 50 {
				time.Sleep(time.Second)
			}
			deliver(tally, n)
		}
		if got := tally.Verdict(101).MessagesPerSecond; got < 33.6 || got > 33.7 { // 101 in 3 s
			t.Errorf("rate %v", got)
		}
		var rounded []int
		for _, rate := range tally.Tenths() {
			rounded = append(rounded, int(rate+0.5))
		}
		if want := []int{100, 100, 100, 100, 100, 9, 100, 100, 100, 100}; !slices.Equal(rounded, want) {
			t.Errorf("got %v, want %v", rounded, want)
		}
	})
}

func TestThereAreNoTenthsOfPartOfTheMessages(t *testing.T) {
	t.Parallel()
	tally := NewTally(Load{Messages: 200})
	for n := range 199 {
		deliver(tally, n)
	}
	if tenths := tally.Tenths(); tenths != nil {
		t.Errorf("got %v", tenths)
	}
}

func TestLatenciesAreFromTheCommitToTheFirstArrival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tally := NewTally(Load{Messages: 4})
		time.Sleep(time.Second)
		tally.Committed(0, time.Now())
		tally.Committed(2, time.Now()) // never arrives
		time.Sleep(3 * time.Millisecond)
		deliver(tally, 0, 1)
		time.Sleep(time.Second)
		deliver(tally, 0)
		all := tally.Latencies()
		if all.Len() != 1 || all.Percentile(50) != 3*time.Millisecond {
			t.Errorf("%d latencies, the median is %v", all.Len(), all.Percentile(50))
		}
	})
}

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var list []int64
	for n := range 1000 {
		list = append(list, int64(1000-n))
	}
	all := newLatencies(list)
	for p, want := range map[float64]time.Duration{0: 1, 50: 500, 90: 900, 99: 990, 99.9: 999, 100: 1000} {
		if got := all.Percentile(p); got != want {
			t.Errorf("%v %%: %d, want %d", p, got, want)
		}
	}
	if got := (Latencies{}).Percentile(99); got != 0 {
		t.Errorf("of none: %v", got)
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	us := func(n int) int64 { return int64(n) * int64(time.Microsecond) }
	all := newLatencies([]int64{us(150), us(200), us(201), us(4000), us(1_500_000)})
	want := []Bucket{
		{200 * time.Microsecond, 2}, {500 * time.Microsecond, 1}, {time.Millisecond, 0}, {2 * time.Millisecond, 0}, {5 * time.Millisecond, 1},
		{10 * time.Millisecond, 0}, {20 * time.Millisecond, 0}, {50 * time.Millisecond, 0}, {100 * time.Millisecond, 0},
		{200 * time.Millisecond, 0}, {500 * time.Millisecond, 0}, {time.Second, 0}, {2 * time.Second, 1},
	}
	if got := all.Histogram(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var drawn bytes.Buffer
	if err := all.WriteHistogram(&drawn); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(drawn.String(), "\n"); len(lines) != len(want)+1 || !strings.Contains(lines[0], "200µs") || !strings.Contains(lines[0], "40.00 %") {
		t.Errorf("drawn:\n%s", &drawn)
	}
	if buckets := (Latencies{}).Histogram(); buckets != nil {
		t.Errorf("of none: %v", buckets)
	}
}

func TestMessagesOfALoad(t *testing.T) {
	t.Parallel()
	load := Load{Messages: 10, Keys: 4, Payload: 21}
	m, other := load.Message(6), load.Message(7)
	if m.Key != "2" || len(m.Payload) != 21 || bytes.Equal(m.Payload[8:], other.Payload[8:]) {
		t.Errorf("got %+v and %+v", m, other)
	}
	if n, err := load.number(m.Payload); n != 6 || err != nil {
		t.Errorf("number %d, %v", n, err)
	}
	if (&Load{Messages: 1}).Key(0) != "" {
		t.Error("a key, where there are to be none")
	}
	id, err := uuid.Parse(m.ID)
	if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 || m.ID == other.ID {
		t.Errorf("id %s, %v", id, err)
	}
	if at, now := time.Unix(id.Time().UnixTime()), time.Now(); at.After(now) || now.Sub(at) > time.Minute {
		t.Errorf("the id is of %v", at)
	}
}

func TestMachineAndUsage(t *testing.T) {
	t.Parallel()
	m := ThisMachine()
	if m.Cores < 1 || m.OS != runtime.GOOS || !strings.Contains(m.String(), runtime.Version()) {
		t.Errorf("got %+v: %s", m, m)
	}
	if runtime.GOOS != "linux" {
		return
	}
	if m.CPU == "" || m.MemoryBytes == 0 {
		t.Errorf("got %+v", m)
	}
	if mine, same := UsageOf(0), UsageOf(os.Getpid()); mine.PeakRSS == 0 || same.PeakRSS == 0 {
		t.Errorf("got %+v and %+v", mine, same)
	}
	path := filepath.Join(t.TempDir(), "stat")
	if err := os.WriteFile(path, []byte("7 (a b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := cpuTime(path); got != 3*time.Second {
		t.Errorf("CPU time %v, want 3 s", got)
	}
	if got := UsageOf(1 << 30); got != (Usage{}) {
		t.Errorf("a process that is not there has %+v", got)
	}
}
