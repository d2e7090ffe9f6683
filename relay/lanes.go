package relay

import "slices"

// lanes hold items of several tenants, who take turns.
type lanes struct {
	of   map[*tenant]*lane
	last *lane   // that something was put into
	turn []*lane // that are not empty
	at   int     // whose turn it is
	n    int
}

// lane is what lanes hold of a tenant.
type lane struct {
	tenant *tenant
	deque
}

// keepLanes is how many empty lanes are kept for later.
const keepLanes = 64

func (l *lanes) len() int { return l.n }

// waiting returns how many there are of a tenant.
func (l *lanes) waiting(t *tenant) int {
	if found := l.of[t]; found != nil {
		return found.len()
	}
	return 0
}

func (l *lanes) pushBack(it *item) { l.lane(it.tenant).pushBack(it) }

func (l *lanes) pushFront(it *item) { l.lane(it.tenant).pushFront(it) }

// lane returns the lane of a tenant, into which an item is about to be put.
func (l *lanes) lane(t *tenant) *lane {
	l.n++
	found := l.last
	if found == nil || found.tenant != t {
		if found = l.of[t]; found == nil {
			found = &lane{tenant: t}
			if l.of == nil {
				l.of = map[*tenant]*lane{}
			}
			l.of[t] = found
		}
		l.last = found
	}
	if found.len() == 0 {
		l.turn = append(l.turn, found)
	}
	return found
}

// pop takes out the next item, nil if there is none.
func (l *lanes) pop() *item {
	if l.n == 0 {
		return nil
	}
	l.n--
	if l.at >= len(l.turn) {
		l.at = 0
	}
	next := l.turn[l.at]
	it := next.pop()
	if next.len() > 0 {
		l.at++
		return it
	}
	l.turn = slices.Delete(l.turn, l.at, l.at+1)
	if len(l.of) > keepLanes {
		delete(l.of, next.tenant)
		if l.last == next {
			l.last = nil
		}
	}
	return it
}

// filter keeps the items for which want returns true, in the order of each tenant.
func (l *lanes) filter(want func(*item) bool) {
	all := make([]*item, 0, l.n)
	for it := l.pop(); it != nil; it = l.pop() {
		if want(it) {
			all = append(all, it)
		}
	}
	for _, it := range all {
		l.pushBack(it)
	}
}

// deque is a double-ended queue of items.
type deque struct {
	front []*item // reversed
	back  []*item
	head  int
}

func (d *deque) len() int { return len(d.front) + len(d.back) - d.head }

func (d *deque) pushBack(it *item) { d.back = append(d.back, it) }

func (d *deque) pushFront(it *item) { d.front = append(d.front, it) }

func (d *deque) pop() *item {
	if n := len(d.front); n > 0 {
		it := d.front[n-1]
		d.front[n-1] = nil
		d.front = d.front[:n-1]
		return it
	}
	if d.head == len(d.back) {
		return nil
	}
	it := d.back[d.head]
	d.back[d.head] = nil
	d.head++
	switch {
	case d.head == len(d.back):
		d.back, d.head = d.back[:0], 0
	case d.head > 1024 && d.head > len(d.back)/2:
		n := copy(d.back, d.back[d.head:])
		clear(d.back[n:])
		d.back, d.head = d.back[:n], 0
	}
	return it
}
