package postgres

import (
	"testing"

	"github.com/outbox-go/outbox/store"
)

// TestLimitFollowsTheSizeOfRows asks for no more rows than MaxBytes has room for, by
// what the last page was like.
func TestLimitFollowsTheSizeOfRows(t *testing.T) {
	t.Parallel()
	var s sizes
	limit := func(maxBytes int) int {
		r := store.ReadRequest{Limit: 1000, MaxBytes: maxBytes}
		s.bound(&r)
		return r.Limit
	}
	if got := limit(16 << 20); got != 1000 {
		t.Errorf("before any page the limit is %d, want what was asked for", got)
	}
	s.note(16, 16<<20)
	if got := limit(16 << 20); got != 17 {
		t.Errorf("behind rows of a MiB the limit is %d, want 17", got)
	}
	if got := limit(1); got != 1 {
		t.Errorf("without room the limit is %d, want 1", got)
	}
	if got := limit(0); got != 1000 {
		t.Errorf("without a limit of bytes the limit is %d, want what was asked for", got)
	}
	s.note(0, 0)
	if got := limit(16 << 20); got != 17 {
		t.Errorf("behind an empty page the limit is %d, want as before", got)
	}
	s.note(17, 17*250)
	if got := limit(16 << 20); got != 1000 {
		t.Errorf("behind small rows the limit is %d, want what was asked for", got)
	}
}
