package measure

import (
	"iter"
	"math/rand/v2"
	"time"
)

// Schedule says which emitter is to commit which message when. It is open: a slow
// transaction puts off none but the next ones of its emitter, which then come faster
// until they have caught up, so that it does not lower the rate that is offered.
type Schedule struct {
	Rate     float64 // messages a second of all emitters together
	Duration time.Duration
	Emitters int

	// Keys is that of the Load; each key belongs to the emitter key % Emitters, so that
	// the messages of a key are committed in the order of their numbers. Give at least
	// as many keys as emitters.
	Keys int

	// HoldShare is the share, 0 to 1, of the transactions that are held open.
	HoldShare float64
}

// Due is a message that is to be emitted.
type Due struct {
	Number int
	At     time.Duration // since the start
	Held   bool          // its transaction is held open
}

// Messages returns how many messages there are.
func (s *Schedule) Messages() int { return int(s.Rate * s.Duration.Seconds()) }

// Of returns what an emitter, counted from 0, has to emit, in the order of time. The
// transactions that are held open are the same in all runs.
func (s *Schedule) Of(emitter int) iter.Seq[Due] {
	return func(yield func(Due) bool) {
		for n := range s.Messages() {
			if s.emitter(n) != emitter {
				continue
			}
			random := rand.New(rand.NewPCG(uint64(n), 2)) //nolint:gosec // not for secrets
			held := random.Float64() < s.HoldShare
			at := time.Duration(float64(n) / s.Rate * float64(time.Second))
			if !yield(Due{Number: n, At: at, Held: held}) {
				return
			}
		}
	}
}

func (s *Schedule) emitter(n int) int {
	if s.Keys > 0 {
		n %= s.Keys
	}
	return n % s.Emitters
}
