package memstore

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox/store"
)

// epochRows bounds what a reader takes for visible at once. A prefix of the
// commits is a snapshot too, if an older one, and sorting a short one is cheap.
const epochRows = 1024

// place is a cursor taken apart: the commits up to seen are read, those up to
// epoch are being read by position, after is the last position passed.
type place struct {
	seen, epoch uint64
	after       int64
}

// place takes c apart. A cursor that is not of this store is void.
func (s *Store) place(c store.Cursor) (place, error) {
	if c == (store.Cursor{}) {
		return place{}, nil
	}
	p := place{after: c.After}
	var err error
	if p.seen, err = s.openSnapshot(c.Seen); err != nil {
		return place{}, err
	}
	if p.epoch, err = s.openSnapshot(c.Epoch); err != nil {
		return place{}, err
	}
	return p, nil
}

// openSnapshot reads what snapshot wrote; "" is the one before all commits.
func (s *Store) openSnapshot(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	system, number, _ := strings.Cut(text, "/")
	commit, err := strconv.ParseUint(number, 10, 64)
	if err != nil || system != s.system {
		return 0, store.ErrCursorVoid
	}
	return commit, nil
}

func (s *Store) snapshot(commit uint64) string {
	return s.system + "/" + strconv.FormatUint(commit, 10)
}

func (s *Store) cursor(p place) store.Cursor {
	c := store.Cursor{Seen: s.snapshot(p.seen), After: p.after}
	if p.epoch > p.seen {
		c.Epoch = s.snapshot(p.epoch)
	}
	return c
}

// Read returns a page for each request, all of the same moment. A cursor of
// another store is [store.ErrCursorVoid].
func (s *Store) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.read(nil, requests)
}

// read is Read as a transaction sees it, if there is one.
func (s *Store) read(tx *Tx, requests []store.ReadRequest) ([]store.Page, error) {
	l, now := s.peek(s.route), time.Now()
	pages := make([]store.Page, len(requests))
	for i := range requests {
		at, err := s.place(requests[i].Cursor)
		if err != nil {
			return nil, err
		}
		s.readPage(l, newPicker(&requests[i], tx, now), at, &pages[i])
	}
	return pages, nil
}

func (s *Store) readPage(l *lane, p *picker, at place, page *store.Page) {
	for {
		if at.epoch <= at.seen {
			at = place{seen: at.seen, epoch: l.nextEpoch(at.seen, s.commits)}
		}
		if p.pick(l.epoch(at), &at.after, page) {
			page.More = true
			break
		}
		at = place{seen: at.epoch}
		page.More = at.seen < s.commits
		if !page.More || len(page.Rows) > 0 {
			break // the rows of a page are of one epoch
		}
	}
	page.Cursor = s.cursor(at)
}

// nextEpoch returns the commit up to which the epoch after seen reaches, last if
// it has all that there is.
func (l *lane) nextEpoch(seen, last uint64) uint64 {
	end := l.after(seen) + epochRows
	if end >= len(l.log) {
		return last
	}
	return l.log[end-1].commit
}

// after returns the index of the first row of a commit later than this one.
func (l *lane) after(commit uint64) int {
	return sort.Search(len(l.log), func(i int) bool { return l.log[i].commit > commit })
}

// epoch returns the rows of the commits in (at.seen, at.epoch] behind the
// position at.after, in the order of positions.
func (l *lane) epoch(at place) []*row {
	rows := l.log[l.after(at.seen):l.after(at.epoch)]
	byPosition := func(a, b *row) int { return cmp.Compare(a.position, b.position) }
	oneCommit := len(rows) > 0 && rows[0].commit == rows[len(rows)-1].commit
	if !oneCommit && !slices.IsSortedFunc(rows, byPosition) {
		rows = slices.Clone(rows)
		slices.SortFunc(rows, byPosition)
	}
	first := sort.Search(len(rows), func(i int) bool { return rows[i].position > at.after })
	return rows[first:]
}

// picker chooses and counts the rows of one page.
type picker struct {
	request *store.ReadRequest
	except  map[store.Key]struct{}
	tenants map[string]struct{} // left out
	tx      *Tx                 // that reads; nil for none
	now     time.Time
	bytes   int
}

func newPicker(r *store.ReadRequest, tx *Tx, now time.Time) *picker {
	return &picker{request: r, except: setOf(r.Except), tenants: setOf(r.ExceptTenants), tx: tx, now: now}
}

func setOf[T comparable](list []T) map[T]struct{} {
	if len(list) == 0 {
		return nil
	}
	set := make(map[T]struct{}, len(list))
	for _, v := range list {
		set[v] = struct{}{}
	}
	return set
}

// pick appends those of rows that are wanted to the page, moves after along, and
// reports whether the page is full.
func (p *picker) pick(rows []*row, after *int64, page *store.Page) bool {
	for _, r := range rows {
		if p.tx != nil {
			r = p.tx.sees(r)
		}
		if !p.wants(r) {
			*after = r.position
			continue
		}
		size := r.message.Size()
		if len(page.Rows) > 0 && p.bytes+size > p.request.MaxBytes {
			return true
		}
		if page.Rows == nil {
			page.Rows = make([]store.Row, 0, min(p.request.Limit, len(rows)))
		}
		page.Rows = append(page.Rows, r.out(p.now))
		*after = r.position
		p.bytes += size
		if len(page.Rows) >= p.request.Limit {
			return true
		}
	}
	return false
}

func (p *picker) wants(r *row) bool {
	if r.removed || !p.request.Shards.Has(r.shard) {
		return false
	}
	if only := p.request.OnlyTenant; only != nil && r.message.Tenant != *only {
		return false
	}
	if _, excepted := p.tenants[r.message.Tenant]; excepted {
		return false
	}
	if p.request.Only == nil && p.except == nil {
		return true
	}
	key := r.key()
	if p.request.Only != nil && (key.Key == "" || key != *p.request.Only) {
		return false
	}
	_, excepted := p.except[key]
	return !excepted || key.Key == ""
}

func (r *row) key() store.Key {
	return store.Key{Tenant: r.message.Tenant, Key: r.message.Key}
}

// out returns the row as it is handed out.
func (r *row) out(now time.Time) store.Row {
	out := store.Row{Message: r.message, Shard: r.shard, RetryIn: r.retryIn(now)}
	if !r.message.ExpiresAt.IsZero() {
		out.ExpiresIn = r.message.ExpiresAt.Sub(now)
	}
	return out
}

func (r *row) retryIn(now time.Time) time.Duration {
	switch {
	case r.blocked:
		return store.Never
	case r.retryAt.IsZero():
		return 0
	}
	return r.retryAt.Sub(now)
}
