package measure

import (
	"slices"
	"testing"
	"time"
)

func TestScheduleGivesEachMessageToTheOwnerOfItsKey(t *testing.T) {
	t.Parallel()
	s := Schedule{Rate: 1000, Duration: 2 * time.Second, Emitters: 4, Keys: 10, HoldShare: 0.5}
	var all []int
	held := 0
	for emitter := range s.Emitters {
		last := time.Duration(-1)
		for due := range s.Of(emitter) {
			if want := due.Number % s.Keys % s.Emitters; emitter != want {
				t.Fatalf("message %d is emitted by %d, want %d", due.Number, emitter, want)
			}
			if want := time.Duration(due.Number) * time.Millisecond; (due.At-want).Abs() > time.Microsecond || due.At <= last {
				t.Fatalf("message %d is due at %v after one at %v, want %v", due.Number, due.At, last, want)
			}
			last = due.At
			all = append(all, due.Number)
			if due.Held {
				held++
			}
		}
	}
	slices.Sort(all)
	if len(all) != 2000 || all[0] != 0 || all[1999] != 1999 || len(slices.Compact(all)) != 2000 {
		t.Errorf("%d messages are due, want each of 2000 once", len(all))
	}
	if held < 900 || held > 1100 {
		t.Errorf("%d of 2000 are held, want about half", held)
	}
}

func TestScheduleHoldsAllOrNone(t *testing.T) {
	t.Parallel()
	for _, share := range []float64{0, 1} {
		s := Schedule{Rate: 100, Duration: time.Second, Emitters: 1, HoldShare: share}
		for due := range s.Of(0) {
			if due.Held != (share == 1) {
				t.Fatalf("with a share of %v held is %v", share, due.Held)
			}
		}
	}
}
