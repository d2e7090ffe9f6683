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

// TestLoneTransactions are those that none has begun just before, with no other open.
func TestLoneTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNotifier(nil)
		var end func()
		for i, step := range []struct {
			after time.Duration
			open  bool // stays so
			want  bool
		}{
			{0, false, true}, {time.Millisecond, false, false}, {time.Millisecond, false, false},
			{2 * time.Millisecond, true, true}, {2 * time.Millisecond, false, false},
		} {
			time.Sleep(step.after)
			lone, done := n.Begin()
			if lone != step.want {
				t.Errorf("transaction %d is lone: %v, want %v", i, lone, step.want)
			}
			if step.open {
				end = done
			} else {
				done()
			}
		}
		end()
		time.Sleep(2 * time.Millisecond)
		if lone, _ := n.Begin(); !lone {
			t.Error("a transaction is not lone when all have ended")
		}
	})
}

// TestWakeLaterTellsOnceForMany, and before Close returns.
func TestWakeLaterTellsOnceForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent, told := 0, 0
		n := NewNotifier(func(context.Context) { sent++ })
		defer n.Listen(func() { told++ })()
		for range 5 {
			n.WakeLater()
			time.Sleep(time.Millisecond)
		}
		if sent+told != 0 {
			t.Errorf("told at once: %d of this process, %d others", told, sent)
		}
		time.Sleep(relayed)
		synctest.Wait()
		if sent != 1 || told != 1 {
			t.Errorf("told %d times, and others %d times, want once", told, sent)
		}
		n.WakeLater()
		n.Close()
		if told != 2 {
			t.Error("what was due was not told before Close returned")
		}
	})
}
