package relay

import (
	"cmp"
	"slices"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// setPauses has the shards read from the start if what is held back is not what it
// was: what was put aside is found again so.
func (q *queue) setPauses(list []store.Pause) {
	list = slices.SortedFunc(slices.Values(list), func(a, b store.Pause) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Key, b.Key))
	})
	q.mu.Lock()
	same := slices.Equal(q.pauses, list)
	q.pauses = list
	q.mu.Unlock()
	if !same {
		q.restartAll()
	}
}

// paused tells whether a message is held back.
func (q *queue) paused(m *outbox.Message) bool {
	for i := range q.pauses {
		if pauses(&q.pauses[i], m) {
			return true
		}
	}
	return false
}

// allPaused tells that there is nothing to read for.
func (q *queue) allPaused() bool { return slices.Contains(q.pauses, store.Pause{}) }
