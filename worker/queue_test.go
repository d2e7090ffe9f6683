package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
)

func TestQueueForgetsWhatItHasGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := &handler{}
		q := newQueue(1, []*handler{h})
		var done *task
		for range 3 {
			q.put(&outbox.Received{Message: outbox.Message{Key: "k"}}, h)
			failed := q.take(0, done)
			given := false
			q.hold(0, failed, time.Second, func(*task) time.Duration { given = true; return 0 })
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if !given || len(q.held) != 0 || len(q.newest) != 0 || q.open != 0 || h.lane.running != 0 {
				t.Fatalf("given back: %v; %d held, %d keys, %d open", given, len(q.held), len(q.newest), q.open)
			}
			if q.spare != failed {
				t.Fatal("the task is not used again")
			}
		}
	})
}
