package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// failPoint is where a process kills itself: before or after the N-th operation of
// a kind.
type failPoint struct {
	Op    operation
	After bool
	N     int
}

func (p failPoint) String() string {
	when := "before"
	if p.After {
		when = "after"
	}
	return fmt.Sprintf("%s %s %d", when, p.Op, p.N)
}

// operation is what a relay does with its store or its broker, told apart by what
// a failure would be recorded as.
type operation string

const (
	opRead    operation = "read"
	opAnswer  operation = "answer"  // the broker has taken a message; after: the relay knows
	opSettle  operation = "settle"  // delete what was confirmed
	opRetry   operation = "retry"   // record that a message waits for another attempt
	opDie     operation = "die"     // record a dead letter
	opPark    operation = "park"    // record a dead letter that parks its key
	opFollow  operation = "follow"  // record dead letters of a parked key
	opBlock   operation = "block"   // record a blocked message
	opParked  operation = "parked"  // ask which keys are parked
	opPromote operation = "promote" // make scheduled messages pending
	opRedrive operation = "redrive" // in a process of its own
	opUnblock operation = "unblock" // Retry, in a process of its own
)

// failCase is a point of the process that starts from what a policy has brought
// about, or before that.
type failCase struct {
	policy relay.Policy
	point  failPoint
	// later: the process begins when the policy has been carried out by another, and
	// more has been emitted.
	later bool
}

// failCases has each point where a policy may be left half done. In the long run
// every point is tried with every policy under which it is reached.
func failCases(long bool) (cases []failCase) {
	both := func(policy relay.Policy, op operation, n int, later bool) {
		for _, after := range []bool{false, true} {
			cases = append(cases, failCase{policy, failPoint{op, after, n}, later})
		}
	}
	both(relay.Skip, opRetry, 1, false)
	both(relay.Skip, opDie, 1, false)
	both(relay.Skip, opSettle, 1, false)
	both(relay.Skip, opAnswer, 7, false)
	both(relay.Skip, opPromote, 1, false)
	both(relay.Park, opPark, 1, false)
	both(relay.Park, opFollow, 1, false)
	both(relay.Park, opFollow, 1, true)
	both(relay.Park, opParked, 1, true)
	both(relay.Park, opRead, 1, true)
	both(relay.Park, opRedrive, 1, true)
	both(relay.Block, opBlock, 1, false)
	both(relay.Block, opRead, 2, false)
	both(relay.Block, opUnblock, 1, true)
	if !long {
		return cases
	}
	for _, policy := range []relay.Policy{relay.Skip, relay.Park, relay.Block} {
		for n := 1; n <= 3; n++ {
			both(policy, opRetry, n, false)
			both(policy, opSettle, n, false)
			both(policy, opRead, n, false)
			both(policy, opAnswer, 11*n, false)
		}
		both(policy, opParked, 1, false)
		both(policy, opPromote, 1, false)
	}
	both(relay.Skip, opDie, 2, false)
	both(relay.Park, opPark, 2, false)
	both(relay.Park, opFollow, 2, false)
	both(relay.Block, opBlock, 2, false)
	return cases
}

// TestFailPoints kills a relay, or who redrives or retries, at a point of its work,
// and another relay takes over: each key then shows what its policy says, in
// order, and nothing is lost.
func TestFailPoints(t *testing.T) {
	long := os.Getenv("OUTBOX_SOAK") != ""
	databases := map[string]func(testing.TB) database{"PostgreSQL": func(t testing.TB) database { return newPostgres(t) }}
	if long {
		databases["SQLite"] = func(t testing.TB) database { return newSQLite(t) }
	}
	for name, open := range databases {
		t.Run(name, func(t *testing.T) {
			// They wait for leases most of the time, so more of them run at once than
			// parallel tests would.
			var running sync.WaitGroup
			slots := make(chan struct{}, 6)
			for _, c := range failCases(long) {
				later := map[bool]string{true: " later"}[c.later]
				running.Go(func() {
					slots <- struct{}{}
					defer func() { <-slots }()
					t.Run(strings.ReplaceAll(c.policy.String()+" "+c.point.String()+later, " ", "_"), func(t *testing.T) {
						newFailRun(t, open(t), c).run()
					})
				})
			}
			running.Wait()
		})
	}
}

// failRun is one run with one point.
type failRun struct {
	*policyBed
	point failPoint
	later bool
	db    database
	keys  []string
}

const scheduledKey = "later"

func newFailRun(t testing.TB, db database, c failCase) *failRun {
	f := &failRun{policyBed: newBed(t, c.policy), point: c.point, later: c.later, db: db}
	switch db := db.(type) {
	case *postgres:
		f.admin = db.store
	case *sqlite:
		f.admin = db.store
	}
	f.emit = func(steps ...step) error {
		return db.inTx(func(tx transaction) error { return tx.emit(events(steps)...) })
	}
	for i := range 8 {
		f.keys = append(f.keys, fmt.Sprint("k", i))
	}
	return f
}

// start starts a relay that kills itself at a point, if that is one.
func (f *failRun) start(point failPoint, cured bool) *child {
	f.t.Helper()
	config := f.config()
	config.RefusedBackoff, config.MaxRefusedBackoff = 20*time.Millisecond, 40*time.Millisecond
	config.Window, config.SettleBatch = 10, 10
	return startChild(f.t, &childConfig{
		Database: f.db.databaseURL(), Relay: &relayConfig{Config: config}, Suicide: &suicideChild{Point: point, Cured: cured},
	})
}

// read writes down what a child has sent so far. It has ended, or this is called
// again.
func (f *failRun) read(c *child) {
	for {
		select {
		case line := <-c.lines:
			if text, ok := strings.CutPrefix(line, printed); ok {
				var s step
				must(f.t, json.Unmarshal([]byte(text), &s))
				f.book.write(s)
			}
		default:
			return
		}
	}
}

// dies waits until a child has killed itself. How often it does something depends on
// how much it does at once, so a later time may never come: then it is killed.
func (f *failRun) dies(c *child) {
	f.t.Helper()
	limit := patience
	if f.point.N > 1 {
		limit = 5 * time.Second
	}
	select {
	case <-c.ended:
	case <-time.After(limit):
		if f.point.N == 1 {
			f.t.Fatalf("the process has not come to the point %s within %v", f.point, limit)
		}
		f.t.Logf("the process has not come to the point %s and is killed now", f.point)
		c.kill()
	}
	f.read(c)
}

// settles waits until a relay has brought about what is wanted.
func (f *failRun) settles(c *child, what string, want course, dead, pending, blocked int) {
	f.t.Helper()
	eventually(f.t, what, func() (bool, string) {
		f.read(c)
		missing, faults, _, _ := f.book.compare(want)
		if len(faults) > 0 {
			f.t.Fatalf("%s: %d faults, such as: %s", what, len(faults), faults[0])
		}
		stats, err := f.admin.Stats(context.Background())
		must(f.t, err)
		done := missing == 0 && int(stats.Dead) == dead && int(stats.Pending) == pending && int(stats.Blocked) == blocked && stats.Scheduled == 0
		return done, fmt.Sprintf("%d messages yet to come, %d dead, %d pending, %d blocked, %d scheduled, where %d, %d and %d are wanted",
			missing, stats.Dead, stats.Pending, stats.Blocked, stats.Scheduled, dead, pending, blocked)
	})
}

func (f *failRun) run() {
	f.begin()
	if !f.later {
		f.dies(f.start(f.point, false))
	}
	// Of a message whose death was not recorded the successors must have waited: cured,
	// it comes before them.
	curable := f.policy == relay.Skip && f.point.Op == opDie
	if curable {
		f.cureTheLiving()
	}
	successor := f.start(failPoint{}, curable)
	shown := f.carriedOut(successor)
	if f.policy == relay.Skip {
		f.ends(successor, shown)
		return
	}
	successor.kill()
	f.read(successor)
	// While no relay runs, newer ones come; one that finds them first does not know
	// of what happened before.
	f.next(harmless, f.keys...)
	if f.later && f.point.Op != opRedrive && f.point.Op != opUnblock {
		f.dies(f.start(f.point, true))
	}
	cured := f.start(failPoint{}, true)
	f.carriedOut(cured)
	f.mend()
	f.next(harmless, f.keys...)
	f.settles(cured, "all, in order", f.emitted, 0, 0, 0)
	f.ends(cured, f.emitted)
}

// cureTheLiving notes that what is not dead yet will be taken.
func (f *failRun) cureTheLiving() {
	f.t.Helper()
	f.poison = map[string][]int{}
	for _, d := range f.list(store.Dead) {
		s := decodeStep(f.t, d.Payload)
		f.poison[s.Key] = append(f.poison[s.Key], s.N)
	}
}

// begin emits ten messages of each key, of half the keys one that is poison, and
// scheduled ones of a key of their own, which are due by now.
func (f *failRun) begin() {
	for range 10 {
		f.next(func(key string, n int) bool { return n == 4 && key < "k4" }, f.keys...)
	}
	due := time.Now().Add(-time.Hour)
	var later []outbox.Event
	for n := range 5 {
		s := step{Key: scheduledKey, N: n + 1}
		f.emitted[s.Key] = append(f.emitted[s.Key], s.N)
		later = append(later, outbox.Event{Topic: bedTopic, Key: s.Key, Payload: s, DeliverAt: due.Add(time.Duration(n) * time.Second)})
	}
	must(f.t, f.db.inTx(func(tx transaction) error { return tx.emit(later...) }))
}

// carriedOut waits until the relay has carried out the policy and returns what is
// shown then.
func (f *failRun) carriedOut(c *child) course {
	f.t.Helper()
	shown, remaining := f.courses()
	if f.policy == relay.Block {
		f.settles(c, "what is not behind poison, and the rest blocked", shown, 0, remaining.total(), len(remaining))
		f.wantBlocked(remaining)
	} else {
		f.settles(c, "what is not behind poison, and the rest dead", shown, remaining.total(), 0, 0)
		f.wantDead(remaining)
	}
	return shown
}

// mend redrives or retries what the policy keeps: in a process that is killed there,
// if that is the point, and once more if that was too early.
func (f *failRun) mend() {
	f.t.Helper()
	do := &suicideChild{}
	var places []int64
	var refs []store.Ref
	if f.policy == relay.Park {
		for _, d := range f.list(store.Dead) {
			places = append(places, d.Place)
		}
	} else {
		_, remaining := f.courses()
		refs = f.wantBlocked(remaining)
	}
	do.Places, do.Refs, do.Point = places, refs, f.point
	if f.point.Op == opRedrive || f.point.Op == opUnblock {
		f.dies(startChild(f.t, &childConfig{Database: f.db.databaseURL(), Suicide: do}))
	}
	if f.point.After && (f.point.Op == opRedrive || f.point.Op == opUnblock) {
		return
	}
	var err error
	if f.policy == relay.Park {
		_, err = f.admin.Redrive(context.Background(), places)
	} else {
		_, err = f.admin.Retry(context.Background(), refs)
	}
	must(f.t, err)
}

// ends ends the last relay, which shows no more, and counts the repeats: what one
// relay had sent and not deleted, at most, for each that was killed.
func (f *failRun) ends(c *child, want course) {
	f.t.Helper()
	c.kill()
	f.read(c)
	missing, faults, repeats, _ := f.book.compare(want)
	if missing > 0 || len(faults) > 0 {
		f.t.Errorf("at the end %d messages are missing, faults %v", missing, faults)
	}
	if most := 2 * 20; repeats > most {
		f.t.Errorf("%d repeats, want at most %d", repeats, most)
	}
}
