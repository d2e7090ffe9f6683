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

// TestTransactionsThatNotifyByThemselves are as many as commit within two milliseconds,
// and one at least.
func TestTransactionsThatNotifyByThemselves(t *testing.T) {
	for commit, want := range map[time.Duration]int{
		50 * time.Microsecond: mostItself, 700 * time.Microsecond: 2, 3 * time.Millisecond: 1, time.Second: 1,
	} {
		n := NewNotifier(nil)
		for range 100 {
			n.End(n.Begin(), commit)
			n.End(n.Begin(), 0) // rolled back
		}
		got := 0
		for range 10 {
			if n.Begin() {
				got++
			}
		}
		if got != want {
			t.Errorf("with commits of %v %d transactions notify by themselves, want %d", commit, got, want)
		}
		n.End(false, commit)
		if n.Begin() {
			t.Errorf("with commits of %v one more notifies by itself when another has ended that did not", commit)
		}
		n.End(true, commit)
		if !n.Begin() {
			t.Errorf("with commits of %v none takes the place of one that has ended", commit)
		}
	}
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
