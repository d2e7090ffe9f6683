package demo

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// order is what one transaction wrote: the message's id, the account that is its
// key, and the counter that the account had in that transaction.
type order struct {
	ID      string
	Account string
	N       int64
}

// ledger is the judge. It hears of every emit and every delivery, and at the end
// compares the deliveries with the business rows, which say what was committed.
type ledger struct {
	mu         sync.Mutex
	committing map[string]time.Time // by id: just before the commit
	rolledBack int
	delivered  map[order]int
	last       map[string]int64 // by account: the highest counter delivered so far
	outOfOrder int
	latencies  []time.Duration // of first deliveries
	first      time.Time       // emit
	latest     time.Time       // delivery
	change     chan struct{}
}

func newLedger(messages int) *ledger {
	return &ledger{
		committing: make(map[string]time.Time, messages),
		delivered:  make(map[order]int, messages),
		last:       map[string]int64{},
		latencies:  make([]time.Duration, 0, messages),
		change:     make(chan struct{}, 1),
	}
}

// emitting notes that a transaction begins.
func (l *ledger) emitting(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first.IsZero() {
		l.first = at
	}
}

// commits notes that a transaction is about to commit.
func (l *ledger) commits(id string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committing[id] = at
}

// rollsBack notes that a transaction is about to be rolled back.
func (l *ledger) rollsBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rolledBack++
}

// deliver notes that o's handler began. Order is judged here: of first deliveries
// an account's counter must grow.
func (l *ledger) deliver(o order, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = at
	l.delivered[o]++
	if l.delivered[o] == 1 {
		if o.N < l.last[o.Account] {
			l.outOfOrder++
		}
		l.last[o.Account] = max(l.last[o.Account], o.N)
		if began, ok := l.committing[o.ID]; ok {
			l.latencies = append(l.latencies, at.Sub(began))
		}
	}
	select {
	case l.change <- struct{}{}:
	default:
	}
}

// count returns how many of the messages that were to be committed have arrived,
// repeats not counted.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.latencies)
}

// judge compares what was delivered with what was committed.
func (l *ledger) judge(committed []order) Result {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Result{
		Committed: len(committed), RolledBack: l.rolledBack,
		Delivered: len(l.delivered), OutOfOrder: l.outOfOrder,
	}
	rows := make(map[order]bool, len(committed))
	for _, o := range committed {
		rows[o] = true
		if l.delivered[o] == 0 {
			r.Lost++
		}
	}
	for o, times := range l.delivered {
		r.Duplicates += times - 1
		if !rows[o] {
			r.Phantom++
		}
	}
	if took := l.latest.Sub(l.first).Seconds(); took > 0 {
		r.MessagesPerSecond = float64(r.Delivered) / took
	}
	slices.Sort(l.latencies)
	r.LatencyP50 = milliseconds(percentile(l.latencies, 50))
	r.LatencyP99 = milliseconds(percentile(l.latencies, 99))
	return r
}

// gaps returns the accounts whose committed counters are not 1, 2, 3 and so on:
// then the demo itself does not take its counters under the row's lock.
func gaps(committed []order) []string {
	rows, highest := map[string]int64{}, map[string]int64{}
	for _, o := range committed {
		rows[o.Account]++
		highest[o.Account] = max(highest[o.Account], o.N)
	}
	maps.DeleteFunc(rows, func(account string, n int64) bool { return n == highest[account] })
	return slices.Sorted(maps.Keys(rows))
}

// percentile returns the value that p of 100 in sorted do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*p+99)/100-1]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
