package postgres

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestNotifierTellsOfALoneCommitAtOnce and of many by one notification in two
// milliseconds.
func TestNotifierTellsOfALoneCommitAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var sent []time.Duration
		n := NewNotifier(func(context.Context) { sent = append(sent, time.Since(began)) })
		told := 0
		defer n.Listen(func() { told++ })()
		n.Wake()
		synctest.Wait()
		if len(sent) != 1 || sent[0] != 0 {
			t.Fatalf("notified after %v, want at once", sent)
		}
		time.Sleep(time.Second)
		sent, began = nil, time.Now()
		for range 10_000 { // one in 100 us
			n.Wake()
			time.Sleep(100 * time.Microsecond)
		}
		n.Close()
		if len(sent) < 300 || len(sent) > 510 {
			t.Errorf("%d notifications in a second of 10000 commits, want one in two milliseconds", len(sent))
		}
		if told != 10_001 {
			t.Errorf("the listener of this process was told %d times, want 10001", told)
		}
	})
}

// TestNotifierMissesNoCommit that comes while a notification is sent.
func TestNotifierMissesNoCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		committed, told := 0, 0
		n := NewNotifier(func(context.Context) {
			seen := committed // a reader sees what is committed by now
			time.Sleep(3 * time.Millisecond)
			told = seen
		})
		for range 1000 {
			committed++
			n.Wake()
			time.Sleep(700 * time.Microsecond)
		}
		n.Close()
		if told != committed {
			t.Errorf("told of %d commits, want %d", told, committed)
		}
	})
}

// TestLoneTransactions are those that none has begun just before.
func TestLoneTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNotifier(nil)
		for i, step := range []struct {
			after time.Duration
			want  bool
		}{{0, true}, {time.Millisecond, false}, {time.Millisecond, false}, {2 * time.Millisecond, true}} {
			time.Sleep(step.after)
			if got := n.Lone(); got != step.want {
				t.Errorf("transaction %d is lone: %v, want %v", i, got, step.want)
			}
		}
	})
}
