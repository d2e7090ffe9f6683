package relay

import "maps"

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

// toldOf notes that the store knows of doubts.
func (q *queue) toldOf(doubt map[uint8]int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for shard, up := range maps.All(doubt) {
		q.shards[shard].told = max(q.shards[shard].told, up)
	}
}
