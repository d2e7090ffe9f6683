package measure

import (
	"fmt"
	"sync"
	"time"
)

// Tally judges what arrives. It is safe for concurrent use.
type Tally struct {
	load Load

	mu         sync.Mutex
	first      []int64 // by number: when it arrived first, in nanoseconds since began, 0 if it has not
	committed  []int64 // by number: when it was committed, likewise
	last       []int   // by key: the greatest number that arrived
	began      time.Time
	started    int64 // the clock of the rate
	latest     int64
	arrived    int
	duplicates int
	phantom    int
	outOfOrder int
	done       chan struct{}
}

// NewTally returns a tally whose clock for the rate runs from now.
func NewTally(load Load) *Tally {
	t := &Tally{load: load, first: make([]int64, load.Messages), began: time.Now(), done: make(chan struct{})}
	t.last = make([]int, load.Keys)
	for i := range t.last {
		t.last[i] = -1
	}
	return t
}

// since returns how long after the tally was made at is, at least 1.
func (t *Tally) since(at time.Time) int64 { return max(1, int64(at.Sub(t.began))) }

// Start has the clock of the rate run from now on.
func (t *Tally) Start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started = t.since(time.Now())
}

// Committed notes when the commit of message n had returned, or was about to be made;
// its latency runs from there.
func (t *Tally) Committed(n int, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.committed == nil {
		t.committed = make([]int64, t.load.Messages)
	}
	t.committed[n] = t.since(at)
}

// Deliver notes that a message with this payload has arrived.
func (t *Tally) Deliver(payload []byte, at time.Time) {
	n, err := t.load.number(payload)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.phantom++
		return
	}
	now := t.since(at)
	if t.first[n] != 0 {
		t.duplicates++
		return
	}
	t.first[n], t.latest = now, now
	if t.load.Keys > 0 {
		key := n % t.load.Keys
		if n < t.last[key] {
			t.outOfOrder++
		}
		t.last[key] = max(t.last[key], n)
	}
	if t.arrived++; t.arrived == t.load.Messages {
		close(t.done)
	}
}

// Done is closed when every message has arrived.
func (t *Tally) Done() <-chan struct{} { return t.done }

// Arrived returns how many different messages have arrived.
func (t *Tally) Arrived() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.arrived
}

// Deliveries returns how often a message has arrived, whichever it was.
func (t *Tally) Deliveries() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.arrived + t.duplicates + t.phantom
}

// Verdict is what a tally has found. The keys of its JSON are those of `outbox demo`.
type Verdict struct {
	Committed         int     `json:"committed"`
	Delivered         int     `json:"delivered"` // different messages
	Duplicates        int     `json:"duplicates"`
	Lost              int     `json:"lost"`
	Phantom           int     `json:"phantom"`      // never emitted
	OutOfOrder        int     `json:"out_of_order"` // first delivered after a later one of their key
	MessagesPerSecond float64 `json:"messages_per_second"`
}

// Err returns nil if what was promised was kept. Duplicates are allowed.
func (v *Verdict) Err() error {
	if v.Lost+v.Phantom+v.OutOfOrder == 0 {
		return nil
	}
	return fmt.Errorf("the promise was not kept: %d lost, %d phantom, %d out of order", v.Lost, v.Phantom, v.OutOfOrder)
}

// Verdict judges what has arrived of the first committed messages, by number.
func (t *Tally) Verdict(committed int) Verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := Verdict{
		Committed: committed, Delivered: t.arrived,
		Duplicates: t.duplicates, Phantom: t.phantom, OutOfOrder: t.outOfOrder,
	}
	for n, at := range t.first {
		switch {
		case n < committed && at == 0:
			v.Lost++
		case n >= committed && at != 0:
			v.Phantom++
		}
	}
	if took := time.Duration(t.latest - t.started).Seconds(); t.arrived > 0 && took > 0 {
		v.MessagesPerSecond = float64(t.arrived) / took
	}
	return v
}

// Tenths returns the rate of each tenth of the messages, in the order in which they
// arrived, from the first arrival on: without what starting takes. It is nil if not all
// have arrived, or there are fewer than 100.
func (t *Tally) Tenths() []float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.arrived < len(t.first) || t.arrived < 100 {
		return nil
	}
	times := sortedCopy(t.first)
	rates := make([]float64, 10)
	from, behind := times[0], 1
	for i := range rates {
		end := len(times) * (i + 1) / 10
		until := times[end-1]
		rates[i] = float64(end-behind) / time.Duration(max(1, until-from)).Seconds()
		from, behind = until, end
	}
	return rates
}

// Latencies returns the time from commit to first arrival of each message of which
// both are known.
func (t *Tally) Latencies() Latencies {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []int64
	for n, at := range t.committed {
		if at != 0 && t.first[n] != 0 {
			all = append(all, t.first[n]-at)
		}
	}
	return newLatencies(all)
}
