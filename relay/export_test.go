package relay

import "context"

// Watch looks into a relay that runs.
type Watch struct {
	queue *queue
	owner string
}

// Owner returns the relay's own id.
func (w *Watch) Owner() string { return w.owner }

// Watched returns what [Relay.Run] does, but for the checks before it, and a look
// into it.
func (r *Relay) Watched() (*Watch, func(context.Context) error) {
	run := r.newRun()
	return &Watch{run.queue, run.owner}, run.loops
}

// Held is what a relay holds.
type Held struct {
	Bytes, InFlight, Settling, Open, Keys, Spilled, Forgotten int
}

// Held returns what the relay holds.
func (w *Watch) Held() Held {
	q := w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	h := Held{Bytes: q.bytes + q.hashes, InFlight: q.inFlight, Settling: q.settling}
	for i := range q.shards {
		s := &q.shards[i]
		h.Open += s.open
		h.Keys += len(s.keys)
		h.Forgotten += s.forgotten.rows
	}
	for _, st := range q.streams {
		if st.key != nil {
			h.Spilled++
		}
	}
	return h
}

// Split returns how many tenants are read by themselves.
func (w *Watch) Split() int {
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	return len(w.queue.splits)
}

// Said returns how many bytes are said to be in memory.
func (w *Watch) Said() int {
	w.queue.mu.Lock()
	defer w.queue.mu.Unlock()
	return w.queue.bytes + w.queue.hashes
}

// Bytes returns how many bytes are said to be in memory and, if nothing is on its
// way, what they are when they are counted anew.
func (w *Watch) Bytes() (said, counted int) {
	q := w.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.shards {
		if q.shards[i].open > 0 {
			return q.bytes + q.hashes, q.bytes + q.hashes
		}
	}
	seen := map[*item]bool{}
	add := func(it *item) {
		if it != nil && !seen[it] {
			seen[it] = true
		}
	}
	n := 0
	for i := range q.shards {
		n += q.shards[i].forgotten.size()
		for _, k := range q.shards[i].keys {
			for _, it := range k.items {
				add(it)
			}
		}
	}
	lists := [][]*item{q.timers, q.confirmed, q.ready.all()}
	for _, r := range q.rules {
		lists = append(lists, r.waiting.all())
	}
	for _, list := range lists {
		for _, it := range list {
			if it != nil && (it.key == nil || it.state == confirmed) {
				add(it)
			}
		}
	}
	for it := range seen {
		n += it.size
	}
	return q.bytes + q.hashes, n
}

// all returns the items, in no order.
func (l *lanes) all() (items []*item) {
	for _, lane := range l.turn {
		items = append(append(items, lane.front...), lane.back[lane.head:]...)
	}
	return items
}
