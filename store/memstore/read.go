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
	now := time.Now()
	pages := make([]store.Page, len(requests))
	for i := range requests {
		at, err := s.place(requests[i].Cursor)
		if err != nil {
			return nil, err
		}
		s.readPage(newPicker(&requests[i], now), at, &pages[i])
	}
	return pages, nil
}

func (s *Store) readPage(p *picker, at place, page *store.Page) {
	for {
		if at.epoch <= at.seen {
			at = place{seen: at.seen, epoch: s.nextEpoch(at.seen)}
		}
		if p.pick(s.epoch(at), &at.after, page) {
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

// nextEpoch returns the commit up to which the epoch after seen reaches.
func (s *Store) nextEpoch(seen uint64) uint64 {
	end := s.after(seen) + epochRows
	if end >= len(s.log) {
		return s.commits
	}
	return s.log[end-1].commit
}

// after returns the index of the first row of a commit later than this one.
func (s *Store) after(commit uint64) int {
	return sort.Search(len(s.log), func(i int) bool { return s.log[i].commit > commit })
}

// epoch returns the rows of the commits in (at.seen, at.epoch] behind the
// position at.after, in the order of positions.
func (s *Store) epoch(at place) []*row {
	rows := s.log[s.after(at.seen):s.after(at.epoch)]
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
	now     time.Time
	bytes   int
}

func newPicker(r *store.ReadRequest, now time.Time) *picker {
	p := &picker{request: r, now: now}
	if len(r.Except) > 0 {
		p.except = make(map[store.Key]struct{}, len(r.Except))
		for _, key := range r.Except {
			p.except[key] = struct{}{}
		}
	}
	return p
}

// pick appends those of rows that are wanted to the page, moves after along, and
// reports whether the page is full.
func (p *picker) pick(rows []*row, after *int64, page *store.Page) bool {
	for _, r := range rows {
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
		page.Rows = append(page.Rows, store.Row{Message: r.message, Shard: r.shard, RetryIn: p.retryIn(r)})
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
	if p.request.Only == nil && p.except == nil {
		return true
	}
	key := store.Key{Tenant: r.message.Tenant, Key: r.message.Key}
	if p.request.Only != nil && (key.Key == "" || key != *p.request.Only) {
		return false
	}
	_, excepted := p.except[key]
	return !excepted || key.Key == ""
}

func (p *picker) retryIn(r *row) time.Duration {
	if r.retryAt.IsZero() {
		return 0
	}
	return r.retryAt.Sub(p.now)
}
