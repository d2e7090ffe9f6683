package acceptance

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/outbox-go/outbox/store"
)

// modelReader follows a cursor.
type modelReader struct {
	route   string
	request store.ReadRequest // without limits
	seen    map[*modelRow]bool
	loose   map[*modelRow]bool // may be seen or not
}

// optional notes that a row came back which the reader may have passed.
func (r *modelReader) optional(row *modelRow) {
	if r.loose != nil {
		r.loose[row] = true
		delete(r.seen, row)
	}
}

// filter draws what a reader is limited to.
func (m *storeModel) filter(t *rapid.T) store.ReadRequest {
	r := store.ReadRequest{Shards: store.FirstShards(m.shards)}
	key := store.Key{Tenant: rapid.SampledFrom([]string{"", "t"}).Draw(t, "tenant"), Key: rapid.SampledFrom([]string{"a", "pa"}).Draw(t, "key")}
	switch rapid.IntRange(0, 6).Draw(t, "filter") {
	case 0:
		r.Only = &key
	case 1:
		r.Except = []store.Key{key, {Key: "b"}}
	case 2:
		r.OnlyTenant = &key.Tenant
	case 3:
		r.ExceptTenants = []string{key.Tenant}
	case 4:
		r.Shards &= 0x5555555555555555
	}
	return r
}

func wants(r *store.ReadRequest, route string, row *modelRow) bool {
	switch {
	case row.message.Route != route, !r.Shards.Has(row.shard):
		return false
	case r.Only != nil && row.key() != *r.Only:
		return false
	case row.message.Key != "" && slices.Contains(r.Except, row.key()):
		return false
	case r.OnlyTenant != nil && row.message.Tenant != *r.OnlyTenant:
		return false
	}
	return !slices.Contains(r.ExceptTenants, row.message.Tenant)
}

// wanted returns what is pending for a request, in its order.
func (m *storeModel) wanted(r *store.ReadRequest, route string) (rows []*modelRow) {
	for _, row := range m.rows {
		if wants(r, route, row) {
			rows = append(rows, row)
		}
	}
	return rows
}

// row finds the pending row that was read, and compares the two.
func (m *storeModel) row(t *rapid.T, got *store.Row) *modelRow {
	i := slices.IndexFunc(m.rows, func(r *modelRow) bool { return r.message.ID == got.ID && r.message.Route == got.Route })
	if i < 0 {
		t.Fatalf("%s of route %q was read and is not pending", got.ID, got.Route)
	}
	m.same(t, m.rows[i], got)
	return m.rows[i]
}

func (m *storeModel) same(t *rapid.T, r *modelRow, got *store.Row) {
	w := &r.message
	if w.Topic != got.Topic || w.Key != got.Key || w.Tenant != got.Tenant || w.ContentType != got.ContentType ||
		!w.DeliverAt.Equal(got.DeliverAt) || !w.CreatedAt.Equal(got.CreatedAt) || len(w.Payload) != len(got.Payload) {
		t.Fatalf("%+v became %+v", *w, got.Message)
	}
	if got.Attempts != r.attempts {
		t.Fatalf("%v has %d attempts, want %d", r, got.Attempts, r.attempts)
	}
}

func (m *storeModel) waits(t *rapid.T, r *modelRow, got time.Duration) {
	if r.wait == store.Never != (got == store.Never) || r.wait > 0 != (got > 0) {
		t.Fatalf("%v waits for %v, want %v", r, got, r.wait)
	}
}

func limits(t *rapid.T, r store.ReadRequest) store.ReadRequest {
	r.Limit, r.MaxBytes = rapid.IntRange(1, 6).Draw(t, "limit"), rapid.SampledFrom([]int{1, 200, 1 << 20}).Draw(t, "bytes")
	return r
}

// readAnew has a reader begin again, for something else perhaps.
func (m *storeModel) readAnew(t *rapid.T) {
	*m.readers[rapid.IntRange(0, len(m.readers)-1).Draw(t, "reader")] = modelReader{
		route: rapid.SampledFrom(modelRoutes).Draw(t, "route"), request: m.filter(t),
		seen: map[*modelRow]bool{}, loose: map[*modelRow]bool{},
	}
}

// read reads a page: of what has not been read before, and, at the end, all.
func (m *storeModel) read(t *rapid.T) {
	r := m.readers[rapid.IntRange(0, len(m.readers)-1).Draw(t, "reader")]
	if r.seen == nil {
		t.Skip("does not read yet")
	}
	pages, err := m.route(r.route).Read(never, limits(t, r.request))
	ok(t, err, "read")
	page := &pages[0]
	for i := range page.Rows {
		row := m.row(t, &page.Rows[i])
		if r.seen[row] && !r.loose[row] || !wants(&r.request, r.route, row) {
			t.Fatalf("%v was read twice, or not asked for", row)
		}
		if i > 0 && page.Rows[i].Position <= page.Rows[i-1].Position {
			t.Fatalf("%v was read behind position %d", row, page.Rows[i-1].Position)
		}
		m.waits(t, row, page.Rows[i].RetryIn)
		r.seen[row] = true
	}
	r.request.Cursor = page.Cursor
	if page.More {
		return
	}
	for _, row := range m.wanted(&r.request, r.route) {
		if !r.seen[row] && !r.loose[row] {
			t.Fatalf("%v was not read, and the reader is at the end", row)
		}
	}
}

// readAll reads from the start to the end, as the new owner of shards does: all that
// is pending, in order.
func (m *storeModel) readAll(t *rapid.T) {
	route := rapid.SampledFrom(modelRoutes).Draw(t, "route")
	request := m.filter(t)
	want := m.wanted(&request, route)
	var got []*modelRow
	for more := true; more; {
		pages, err := m.route(route).Read(never, limits(t, request))
		ok(t, err, "read")
		for i := range pages[0].Rows {
			got = append(got, m.row(t, &pages[0].Rows[i]))
		}
		request.Cursor, more = pages[0].Cursor, pages[0].More
	}
	if !slices.Equal(got, want) {
		t.Fatalf("read %v, want %v", got, want)
	}
}

// compare looks at all that there is.
func (m *storeModel) compare(t *rapid.T) {
	pending := m.listed(t, store.Pending)
	if len(pending) != len(m.rows) {
		t.Fatalf("%d messages are pending, want %d", len(pending), len(m.rows))
	}
	for i, s := range pending {
		r := m.rows[i]
		if !r.is(s) {
			t.Fatalf("the %d. pending message is %s of route %q at %d, want %v", i, s.ID, s.Route, s.Position, r)
		}
		if r.position != 0 && r.position != s.Position {
			t.Fatalf("%v is at %d now", r, s.Position)
		}
		r.position, r.shard = s.Position, s.Shard
		m.same(t, r, &s.Row)
		m.waits(t, r, s.RetryIn)
	}
	m.sameSet(t, store.Scheduled, m.later)
	m.sameSet(t, store.Dead, m.dead)
	m.sameSet(t, store.Sent, m.sent)
	m.compareStats(t)
	for _, route := range modelRoutes {
		m.compareParked(t, route)
	}
}

func (m *storeModel) listed(t *rapid.T, state store.State) []store.Stored {
	list, err := m.admin.List(never, store.Query{State: state, Limit: 10_000})
	ok(t, err, "list")
	return list
}

func (m *storeModel) sameSet(t *rapid.T, state store.State, want []*modelRow) {
	list := m.listed(t, state)
	if len(list) != len(want) {
		t.Fatalf("%d messages are %s, want %d", len(list), state, len(want))
	}
	for _, s := range list {
		i := slices.IndexFunc(want, func(r *modelRow) bool { return r.is(s) })
		if i < 0 {
			t.Fatalf("%s of route %q is %s", s.ID, s.Route, state)
		}
		m.same(t, want[i], &s.Row)
		if s.Reason != want[i].reason || s.Parked != want[i].parked {
			t.Fatalf("%v is dead for %q, parked %t; want %q, %t", want[i], s.Reason, s.Parked, want[i].reason, want[i].parked)
		}
	}
}

func (m *storeModel) parkedKeys(route string) (keys []store.Key) {
	for _, d := range m.dead {
		if d.parked && d.message.Route == route && !slices.Contains(keys, d.key()) {
			keys = append(keys, d.key())
		}
	}
	return keys
}

func (m *storeModel) compareParked(t *rapid.T, route string) {
	got, err := m.route(route).Parked(never, store.FirstShards(m.shards))
	ok(t, err, "parked")
	want := m.parkedKeys(route)
	for _, key := range want {
		if !slices.Contains(got, key) {
			t.Fatalf("%+v of route %q is not parked", key, route)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("the keys %v of route %q are parked, want %v", got, route, want)
	}
}

func (m *storeModel) compareStats(t *rapid.T) {
	stats, err := m.admin.Stats(never)
	ok(t, err, "stats")
	want := store.Stats{
		Pending: int64(len(m.rows)), Scheduled: int64(len(m.later)), Dead: int64(len(m.dead)), Kept: int64(len(m.sent)),
	}
	for _, r := range m.rows {
		switch {
		case r.wait == store.Never:
			want.Blocked++
		case r.wait > 0:
			want.Waiting++
		}
	}
	for _, route := range modelRoutes {
		want.ParkedKeys += int64(len(m.parkedKeys(route)))
	}
	if !m.exact {
		want.Kept = stats.Kept
	}
	got := store.Stats{
		Pending: stats.Pending, Scheduled: stats.Scheduled, Dead: stats.Dead, Kept: stats.Kept,
		Blocked: stats.Blocked, Waiting: stats.Waiting, ParkedKeys: stats.ParkedKeys,
	}
	if got.Pending != want.Pending || got.Scheduled != want.Scheduled || got.Dead != want.Dead || got.Kept != want.Kept ||
		got.Blocked != want.Blocked || got.Waiting != want.Waiting || got.ParkedKeys != want.ParkedKeys {
		t.Fatalf("stats are %+v, want %+v", got, want)
	}
}
