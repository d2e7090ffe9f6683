package relay

import (
	"errors"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// doubtful notes that a message may have been sent although the broker did not say so.
func (q *queue) doubtful(it *item) { it.shard.doubt = max(it.shard.doubt, it.row.Position) }

// isAnswer tells that an error is the broker's, by its class, so that the message is
// known not to be there.
func isAnswer(err error) bool {
	var panicked *outbox.PanicError
	return (errors.Is(err, outbox.ErrRefused) || errors.Is(err, outbox.ErrInvalid)) && !errors.As(err, &panicked)
}

// doubts returns, for the shards that are owned, up to which position a message may
// have been sent without an answer, where that has grown since the store was told. At
// the end what was sent of a shard that still has something open counts, too.
func (q *queue) doubts(end bool) map[uint8]int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	var doubt map[uint8]int64
	for i := range q.shards {
		s := &q.shards[i]
		up := s.doubt
		if end && s.open > 0 {
			up = max(up, s.last)
		}
		if !s.owned || up <= s.told {
			continue
		}
		if doubt == nil {
			doubt = map[uint8]int64{}
		}
		doubt[s.lease.Shard] = up
	}
	return doubt
}

// toldOf notes that the store knows of doubts, those of the shards that it has not
// left out.
func (q *queue) toldOf(doubt map[uint8]int64, leases []store.Lease) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, lease := range leases {
		s := &q.shards[lease.Shard]
		s.told = max(s.told, doubt[lease.Shard])
	}
}
