package relay

import "slices"

// tenant is what the queue holds of a tenant.
type tenant struct {
	name  string
	bytes int
	split bool // it is read by streams of its own
}

// maxSplit bounds the tenants that are read by themselves.
const maxSplit = 32

// tenantOf returns the tenant of a name.
func (q *queue) tenantOf(name string) *tenant {
	if name == "" {
		return q.noTenant
	}
	t := q.tenants[name]
	if t == nil {
		t = &tenant{name: name}
		q.tenants[name] = t
		q.tenanted = true
	}
	return t
}

// charge counts an item that is held.
func (q *queue) charge(it *item) {
	it.tenant = q.tenantOf(it.row.Tenant)
	q.bytes += it.size
	it.tenant.bytes += it.size
	it.shard.held++
}

// discharge counts an item no more.
func (q *queue) discharge(it *item) {
	q.bytes -= it.size
	it.shard.held--
	t := it.tenant
	if t.bytes -= it.size; t.bytes == 0 {
		q.dropTenant(t)
	}
}

// dropTenant forgets a tenant of which there is nothing.
func (q *queue) dropTenant(t *tenant) {
	if t.bytes == 0 && !t.split && t != q.noTenant {
		delete(q.tenants, t.name)
	}
}

// split has a tenant that fills the memory read by a stream of its own, which
// leaves room for the others, from where the common streams stand.
func (q *queue) split(t *tenant) {
	if t == nil || t.split || len(q.splits) == maxSplit || t == q.noTenant && !q.tenanted {
		return
	}
	t.split = true
	q.splits = append(q.splits, t)
	for _, st := range q.streams {
		if st.common() {
			q.streams = append(q.streams, &stream{shards: st.shards, tenant: t, cursor: st.cursor, more: st.more})
		}
	}
}

// unsplit notes which tenants have no stream of their own any more.
func (q *queue) unsplit() {
	q.splits = slices.DeleteFunc(q.splits, func(t *tenant) bool {
		if q.hasStream(t) {
			return false
		}
		t.split = false
		q.dropTenant(t)
		return true
	})
}

func (q *queue) hasStream(t *tenant) bool {
	for _, st := range q.streams {
		if st.tenant == t {
			return true
		}
	}
	return false
}

// quota is how much of a tenant that is read by itself may be in memory. The other
// half is for the others.
func (q *queue) quota() int { return q.config.Memory / 2 / max(len(q.splits), 1) }

// tenantRoom returns how many of the bytes that there is room for may be read of a
// tenant that is read by itself; none until a quarter of its quota is free.
func (q *queue) tenantRoom(t *tenant, room int) int {
	quota := q.quota()
	most := quota / 4 * 3
	if t.bytes > most && q.ready.waiting(t) < q.config.Window {
		over := func() bool { return t.bytes > quota/2 }
		q.spill(t, over)
		if t.bytes > most {
			q.forget(t, over)
		}
	}
	if t.bytes > most {
		q.full = true
		return 0
	}
	return min(quota-t.bytes, room)
}
