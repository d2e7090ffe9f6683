package relay_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/memstore"
)

// runs is an outbox that is drained by runs. A message's name is its key and its
// number within the key.
type runs struct {
	*bench
	calls   []string
	answers func(m *outbox.Message) error
}

// inRuns runs a test in a bubble with an outbox of its own.
func inRuns(t *testing.T, test func(t *testing.T, r *runs)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, &runs{bench: newBench(t)}) })
}

func nameOf(m *outbox.Message) string { return m.Key + string(m.Payload) }

func (r *runs) publish(_ context.Context, m *outbox.Message) error {
	r.calls = append(r.calls, nameOf(m))
	if r.answers == nil {
		return nil
	}
	return r.answers(m)
}

// refusing answers with err to the messages of these names.
func (r *runs) refusing(err error, names ...string) {
	r.answers = func(m *outbox.Message) error {
		if slices.Contains(names, nameOf(m)) {
			return err
		}
		return nil
	}
}

// run runs once and returns what was published.
func (r *runs) run(config *relay.OnceConfig, want relay.Result) (calls []string) {
	r.t.Helper()
	return r.runOn(r.store, config, want)
}

func (r *runs) runOn(s relay.OnceStore, config *relay.OnceConfig, want relay.Result) (calls []string) {
	r.t.Helper()
	r.calls = nil
	got, err := relay.RunOnce(r.t.Context(), s, r.publish, config)
	if err != nil {
		r.t.Fatal(err)
	}
	wantResult(r.t, got, want)
	return r.calls
}

func (r *runs) list(state store.State) []store.Stored {
	r.t.Helper()
	list, err := r.store.List(r.t.Context(), store.Query{State: state, Limit: 10_000})
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

// wantDead checks the names and reasons of all dead letters.
func (r *runs) wantDead(want ...string) {
	r.t.Helper()
	var got []string
	for _, m := range r.list(store.Dead) {
		got = append(got, fmt.Sprintf("%s %s %d", nameOf(&m.Message), m.Reason, m.Attempts))
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("dead letters %q, want %q", got, want)
	}
}

func TestRunOfNoOutboxOrAnEmptyOneCallsNothing(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		var none *memstore.Store
		for _, s := range []relay.OnceStore{nil, none, r.store} {
			wantCalls(t, r.runOn(s, nil, relay.Result{}))
		}
	})
}

func TestRunSendsInTheOrderOfEmitsUpToItsLimit(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(3, 3)
		wantCalls(t, r.run(&relay.OnceConfig{Limit: 2}, relay.Result{Taken: 2, Sent: 2}), "k01", "k11")
		wantCalls(t, r.run(&relay.OnceConfig{Limit: 2}, relay.Result{Taken: 1, Sent: 1}), "k21")
		wantCalls(t, r.run(nil, relay.Result{}))
		r.emit(1500, 50) // more than a page
		calls := r.run(nil, relay.Result{Taken: 100, Sent: 100})
		calls = append(calls, r.run(&relay.OnceConfig{Limit: 10_000}, relay.Result{Taken: 1400, Sent: 1400})...)
		for i, call := range calls {
			n := i / 50
			if i%50 < 3 {
				n++ // those before
			}
			if want := fmt.Sprintf("k%d%d", i%50, n+1); call != want {
				t.Fatalf("call %d is of %s, want %s", i, call, want)
			}
		}
	})
}

func TestRunSettlesEachMessageAtOnce(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(3, 2)
		var left []int
		r.answers = func(*outbox.Message) error { left = append(left, r.store.Pending()); return nil }
		r.run(&relay.OnceConfig{Keep: true}, relay.Result{Taken: 3, Sent: 3})
		if !slices.Equal(left, []int{3, 2, 1}) || r.store.Pending() != 0 {
			t.Errorf("pending at the calls: %v, and then %d", left, r.store.Pending())
		}
		if kept := r.list(store.Sent); len(kept) != 3 {
			t.Errorf("%d in the history, want 3", len(kept))
		}
		r.emit(1, 1)
		r.run(nil, relay.Result{Taken: 1, Sent: 1})
		if kept := r.list(store.Sent); len(kept) != 3 {
			t.Error("kept without Keep")
		}
	})
}

func TestRunGivesUpAfterTheMaximumOfAttempts(t *testing.T) {
	for most, config := range map[int]*relay.OnceConfig{3: nil, 1: {MaxAttempts: 1}, 5: {MaxAttempts: 5}} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			inRuns(t, func(t *testing.T, r *runs) {
				r.emit(1, 1)
				r.answers = func(*outbox.Message) error { return fmt.Errorf("failure %d", len(r.calls)) }
				var calls []string
				for range 20 { // also while it waits
					r.calls = nil
					if _, err := relay.RunOnce(t.Context(), r.store, r.publish, config); err != nil {
						t.Fatal(err)
					}
					calls = append(calls, r.calls...)
					time.Sleep(10 * time.Second)
				}
				if len(calls) != most || r.store.Pending() != 0 {
					t.Errorf("%d attempts, want %d; %d pending", len(calls), most, r.store.Pending())
				}
				r.wantDead(fmt.Sprint("k01 exhausted ", most))
				if dead := r.list(store.Dead); len(dead) != 1 || dead[0].LastError != "failure 1" {
					t.Errorf("dead letters %+v", dead)
				}
			})
		})
	}
}

func TestRunReportsAllFaultsAndCallsNothing(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(1, 1)
		_, err := relay.RunOnce(t.Context(), r.store, r.publish, &relay.OnceConfig{
			Limit: -1, Timeout: -1, MaxAttempts: -1, Policies: []relay.TopicPolicy{{Pattern: "a..b"}}, RefusedBackoff: -1,
		})
		for _, part := range []string{"Limit is -1", "Timeout is -1", "MaxAttempts is -1", `Policies has "a..b"`, "RefusedBackoff is -1"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("the error lacks %q: %v", part, err)
			}
		}
		if len(r.calls) > 0 {
			t.Error("published")
		}
		if _, err := relay.RunOnce(t.Context(), r.store, nil, nil); err == nil || !strings.Contains(err.Error(), "publish is nil") {
			t.Errorf("without a function: %v", err)
		}
	})
}

func TestRunRetriesWhatFailedWhenItIsDue(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emitKeys("t", "a", "b", "a")
		r.refusing(errors.New("not now"), "a1")
		wantCalls(t, r.run(nil, relay.Result{Taken: 3, Sent: 1, Failed: 1, Passed: 1}), "a1", "b1")
		if m := r.list(store.Pending)[0]; m.Attempts != 1 || m.LastError != "not now" {
			t.Errorf("stored: %d attempts, %q", m.Attempts, m.LastError)
		}
		r.answers = nil
		r.emitKeys("t", "a", "c")
		wantCalls(t, r.run(nil, relay.Result{Taken: 1, Sent: 1}), "c1")
		time.Sleep(time.Second)
		wantCalls(t, r.run(nil, relay.Result{Taken: 3, Sent: 3}), "a1", "a2", "a3")
	})
}

func TestRunFollowsThePolicies(t *testing.T) {
	policies := []relay.TopicPolicy{{Pattern: "park", Policy: relay.Park}, {Pattern: "block", Policy: relay.Block}}
	for topic, want := range map[string]struct {
		dead   []string
		then   []string // sent by the next run
		result relay.Result
	}{
		"skip":  {dead: []string{"a1 invalid 1"}, then: []string{"a2", "a3"}, result: relay.Result{Taken: 2, Sent: 2}},
		"park":  {dead: []string{"a1 invalid 1", "a2 parked 0", "a3 parked 0"}, result: relay.Result{Dead: 2}},
		"block": {},
	} {
		t.Run(topic, func(t *testing.T) {
			inRuns(t, func(t *testing.T, r *runs) {
				r.emitKeys(topic, "a", "a", "a", "", "b")
				r.refusing(outbox.Invalid(errors.New("too large")), "a1", "1")
				first := relay.Result{Taken: 5, Sent: 1, Failed: 2, Passed: 2, Dead: 2}
				if topic == "block" {
					first.Dead = 0
				}
				wantCalls(t, r.run(&relay.OnceConfig{Policies: policies}, first), "a1", "1", "b1")
				time.Sleep(time.Hour)
				wantCalls(t, r.run(&relay.OnceConfig{Policies: policies}, want.result), want.then...)
				if len(want.dead) > 0 {
					want.dead = slices.Insert(want.dead, 1, "1 invalid 1") // the one without a key
				}
				r.wantDead(want.dead...)
				for _, m := range r.list(store.Dead) {
					if m.Parked != (topic == "park" && m.Key != "") {
						t.Errorf("%s: parked is %v", nameOf(&m.Message), m.Parked)
					}
				}
			})
		})
	}
}

func TestRunSendsAParkedKeyInOrderWhenItIsRedriven(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		config := &relay.OnceConfig{Policies: []relay.TopicPolicy{{Pattern: "#", Policy: relay.Park}}}
		r.emitKeys("t", "a", "a")
		r.refusing(outbox.Invalid(errors.New("too large")), "a1")
		r.run(config, relay.Result{Taken: 2, Failed: 1, Passed: 1, Dead: 1})
		r.run(config, relay.Result{Dead: 1})
		r.emitKeys("t", "a")
		if _, err := r.store.Redrive(t.Context(), []int64{r.list(store.Dead)[0].Place}); err != nil {
			t.Fatal(err)
		}
		r.answers = nil
		wantCalls(t, r.run(config, relay.Result{Taken: 3, Sent: 3}), "a1", "a2", "a3")
	})
}

func TestRunKeepsAPanicToItsMessage(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emitKeys("t", "a", "b")
		r.answers = func(m *outbox.Message) error {
			if m.Key == "a" {
				panic("mad")
			}
			return nil
		}
		wantCalls(t, r.run(nil, relay.Result{Taken: 2, Sent: 1, Failed: 1}), "a1", "b1")
		if m := r.list(store.Pending)[0]; m.Attempts != 1 || !strings.Contains(m.LastError, "panic: mad") {
			t.Errorf("stored: %d attempts, %q", m.Attempts, m.LastError)
		}
	})
}

func TestRunCountsNothingWhileTheBrokerIsAway(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(10, 10)
		r.answers = func(*outbox.Message) error { return outbox.ErrUnavailable }
		for range 20 {
			wantCalls(t, r.run(nil, relay.Result{Taken: 10, Failed: 3, Passed: 7}), "k01", "k11", "k21")
		}
		if m := r.list(store.Pending)[0]; m.Attempts != 0 {
			t.Errorf("%d attempts counted", m.Attempts)
		}
		// What may have been sent cannot be withdrawn.
		for i, want := range map[int]store.Withdrawal{2: store.TooLate, 3: store.Withdrawn} {
			got, err := r.store.Withdraw(t.Context(), r.list(store.Pending)[i].ID, "me")
			if err != nil || got != want {
				t.Errorf("message %d: %s, %v, want %s", i, got, err, want)
			}
			if err := r.store.LetGo(t.Context(), "me"); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		r.answers = func(*outbox.Message) error {
			if n++; n%3 == 0 {
				return nil
			}
			return outbox.ErrUnavailable
		}
		r.run(nil, relay.Result{Taken: 9, Sent: 3, Failed: 6})
	})
}

func TestRunDropsWhatHasExpired(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		emit := func(key string, in time.Duration) {
			t.Helper()
			e := outbox.Event{Topic: "t", Key: key, Payload: []byte("1")}
			if in != 0 {
				e.ExpiresAt = time.Now().Add(in)
			}
			err := r.outbox.InTx(t.Context(), func(tx *memstore.Tx) error { return r.outbox.Emit(t.Context(), tx, e) })
			if err != nil {
				t.Fatal(err)
			}
		}
		emit("gone", time.Second)
		emit("gone", 0)
		time.Sleep(time.Second)
		emit("meanwhile", 5*time.Second)
		emit("lasting", time.Minute)
		r.answers = func(*outbox.Message) error { time.Sleep(10 * time.Second); return nil }
		config := &relay.OnceConfig{Policies: []relay.TopicPolicy{{Pattern: "#", Policy: relay.Park}}}
		wantCalls(t, r.run(config, relay.Result{Taken: 3, Sent: 2, Failed: 1, Dead: 2}), "gone1", "lasting1")
		r.wantDead("gone1 expired 0", "meanwhile1 expired 0")
		if r.list(store.Dead)[0].Parked {
			t.Error("an expired message parks its key")
		}
	})
}

func TestRunOfOneTenant(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		err := r.outbox.InTx(t.Context(), func(tx *memstore.Tx) error {
			return r.outbox.Emit(t.Context(), tx,
				outbox.Event{Topic: "t", Tenant: "x", Payload: []byte("x1")}, outbox.Event{Topic: "t", Tenant: "y", Payload: []byte("y1")},
				outbox.Event{Topic: "t", Payload: []byte("none")}, outbox.Event{Topic: "t", Tenant: "x", Payload: []byte("x2")})
		})
		if err != nil {
			t.Fatal(err)
		}
		r.answers = func(m *outbox.Message) error {
			if !strings.HasPrefix(string(m.Payload), m.Tenant) {
				t.Errorf("tenant %q of %q", m.Tenant, m.Payload)
			}
			return nil
		}
		none, y := "", "y"
		wantCalls(t, r.run(&relay.OnceConfig{Tenant: &y}, relay.Result{Taken: 1, Sent: 1}), "y1")
		wantCalls(t, r.run(&relay.OnceConfig{Tenant: &none}, relay.Result{Taken: 1, Sent: 1}), "none")
		wantCalls(t, r.run(nil, relay.Result{Taken: 2, Sent: 2}), "x1", "x2")
	})
}

func TestRunLeavesAloneWhatIsPaused(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emitKeys("t.held", "a")
		r.emitKeys("t", "a", "b", "c")
		pauses := []store.Pause{{Topic: "*.held"}, {Key: "b"}, {Tenant: "other", Key: "c"}}
		for _, p := range pauses {
			if _, err := r.store.Pause(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		wantCalls(t, r.run(nil, relay.Result{Taken: 1, Sent: 1}), "c1")
		for _, p := range pauses {
			if _, err := r.store.Resume(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		wantCalls(t, r.run(nil, relay.Result{Taken: 3, Sent: 3}), "a1", "a2", "b1")
	})
}

func TestRunFindsWhatIsBehindAKeyThatWaits(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emitKeys("t", slices.Repeat([]string{"stuck"}, 20_000)...)
		r.emitKeys("t", "free")
		r.refusing(errors.New("no"), "stuck1")
		r.run(&relay.OnceConfig{Limit: 1}, relay.Result{Taken: 1, Failed: 1})
		reads := &counted{Store: r.store}
		wantCalls(t, r.runOn(reads, nil, relay.Result{Taken: 1, Sent: 1}), "free1")
		if reads.rows > 1001 {
			t.Errorf("read %d rows to find one", reads.rows)
		}
	})
}

// counted is a store that counts, and fails as it is told.
type counted struct {
	*memstore.Store
	rows      int
	claims    int
	settleErr error
}

func (c *counted) Read(ctx context.Context, requests ...store.ReadRequest) ([]store.Page, error) {
	pages, err := c.Store.Read(ctx, requests...)
	for _, page := range pages {
		c.rows += len(page.Rows)
	}
	return pages, err
}

func (c *counted) Claim(ctx context.Context, r store.ClaimRequest) (store.Claim, error) {
	c.claims++
	return c.Store.Claim(ctx, r)
}

func (c *counted) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	if c.settleErr != nil {
		return c.settleErr
	}
	return c.Store.Settle(ctx, refs, keep)
}

func TestRunEndsWhereItCannotNoteWhatItSent(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(2, 2)
		down := errors.New("connection lost")
		result, err := relay.RunOnce(t.Context(), &counted{Store: r.store, settleErr: down}, r.publish, nil)
		if !errors.Is(err, down) || len(r.calls) != 1 {
			t.Errorf("error %v after %d calls", err, len(r.calls))
		}
		wantResult(t, result, relay.Result{Taken: 2})
		got, err := r.store.Withdraw(t.Context(), r.list(store.Pending)[0].ID, "me")
		if err != nil || got != store.TooLate {
			t.Errorf("withdrawing what was sent: %s, %v", got, err)
		}
	})
}

func TestRunsAndRelaysAtTheSameTimeAreDisjoint(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(10, 10)
		r.answers = func(*outbox.Message) error {
			if len(r.calls) == 1 {
				other, _ := r.start(nil)
				time.Sleep(5 * time.Second)
				if n := other.Stats().Relays; n != 1 {
					t.Errorf("the relay sees %d relays: a run is none", n)
				}
				got, err := relay.RunOnce(t.Context(), r.store, func(context.Context, *outbox.Message) error {
					t.Error("another run has the same")
					return nil
				}, nil)
				if err != nil || got != (relay.Result{}) {
					t.Errorf("the other run: %+v, %v", got, err)
				}
			}
			return nil
		}
		r.run(nil, relay.Result{Taken: 10, Sent: 10})
		r.emit(10, 10)
		time.Sleep(5 * time.Second)
		if n := len(r.broker.Messages("all")); n != 10 {
			t.Errorf("the relay sent %d, want 10", n)
		}
		r.emit(1, 1)
		wantCalls(t, r.run(nil, relay.Result{})) // the relay has all shards
	})
}

func TestRunGivesItsShardsBack(t *testing.T) {
	for name, c := range map[string]struct {
		publish func(cancel func()) error
		doubt   store.Withdrawal
	}{
		"at its end": {func(func()) error { return outbox.Refused(errors.New("no")) }, store.Withdrawn},
		"after an error that says nothing of the broker": {func(func()) error { return errors.New("no") }, store.TooLate},
		"after a panic":         {func(func()) error { panic("no") }, store.TooLate},
		"when its context ends": {func(cancel func()) error { cancel(); return context.Canceled }, store.TooLate},
		"when its goroutine ends": {func(func()) error {
			runtime.Goexit()
			return nil
		}, store.TooLate},
	} {
		t.Run(name, func(t *testing.T) {
			inRuns(t, func(t *testing.T, r *runs) {
				r.emit(1, 1)
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_, _ = relay.RunOnce(ctx, r.store, func(context.Context, *outbox.Message) error { return c.publish(cancel) }, nil)
				}()
				<-ended
				claim, err := r.store.Claim(t.Context(), store.ClaimRequest{Owner: "next", TTL: time.Minute})
				if err != nil || len(claim.Leases) != r.store.Shards() {
					t.Errorf("%d shards are free, %v", len(claim.Leases), err)
				}
				if err := r.store.Leave(t.Context(), "next", nil); err != nil {
					t.Fatal(err)
				}
				got, err := r.store.Withdraw(t.Context(), r.list(store.Pending)[0].ID, "me")
				if err != nil || got != c.doubt {
					t.Errorf("withdrawn: %s, %v, want %s", got, err, c.doubt)
				}
			})
		})
	}
}

func TestRunRenewsItsLeasesBetweenSlowCalls(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(20, 20)
		s := &counted{Store: r.store}
		r.answers = func(*outbox.Message) error {
			if len(r.calls) == 1 {
				r.start(nil)
			}
			time.Sleep(29 * time.Second)
			return nil
		}
		r.runOn(s, nil, relay.Result{Taken: 20, Sent: 20})
		if n := len(r.broker.Messages("all")); n != 0 {
			t.Errorf("a relay sent %d of them", n)
		}
		if s.claims < 5 || s.claims > 20 {
			t.Errorf("claimed %d times", s.claims)
		}
	})
}

func TestRunSendsNothingOfAShardThatItLost(t *testing.T) {
	for name, answer := range map[string]error{"after a success": nil, "after a failure": errors.New("too late")} {
		t.Run(name, func(t *testing.T) {
			inRuns(t, func(t *testing.T, r *runs) {
				r.emit(10, 10)
				r.answers = func(*outbox.Message) error {
					time.Sleep(5 * time.Minute) // whatever its context says
					r.start(nil)
					time.Sleep(time.Minute)
					return answer
				}
				want := relay.Result{Taken: 10, Sent: 1, Passed: 9}
				if answer != nil {
					want = relay.Result{Taken: 10, Failed: 1, Passed: 9}
				}
				wantCalls(t, r.run(nil, want), "k01")
				if n := len(r.broker.Messages("all")); n != 10 {
					t.Errorf("the relay sent %d, want all", n)
				}
			})
		})
	}
}

func TestRunPassesOverAShardThatIsToBeReadAnew(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emitKeys("t", "a")
		r.refusing(outbox.Invalid(errors.New("no")), "a1")
		r.run(nil, relay.Result{Taken: 1, Failed: 1, Dead: 1})
		r.emitKeys("t", "first", "a", "b")
		r.answers = func(*outbox.Message) error {
			if len(r.calls) == 1 {
				if _, err := r.store.Redrive(t.Context(), []int64{r.list(store.Dead)[0].Place}); err != nil {
					t.Error(err)
				}
				time.Sleep(40 * time.Second)
			}
			return nil
		}
		wantCalls(t, r.run(nil, relay.Result{Taken: 3, Sent: 2, Passed: 1}), "first1", "b1")
		r.answers = nil
		wantCalls(t, r.run(nil, relay.Result{Taken: 2, Sent: 2}), "a1", "a2")
	})
}

func TestRunKeepsToTheShardsThatItFoundFree(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		other := store.ClaimRequest{Owner: "other", TTL: time.Hour, Guest: true, Most: 32}
		claim := func() int {
			t.Helper()
			c, err := r.store.Claim(t.Context(), other)
			if err != nil {
				t.Fatal(err)
			}
			return len(c.Leases)
		}
		claim()
		r.emit(100, 100)
		r.answers = func(*outbox.Message) error {
			switch len(r.calls) {
			case 1:
				if err := r.store.Leave(t.Context(), "other", nil); err != nil {
					t.Error(err)
				}
				time.Sleep(40 * time.Second)
			case 2:
				if n := claim(); n != 32 {
					t.Errorf("the other gets %d of its 32 shards back", n)
				}
			}
			return nil
		}
		if _, err := relay.RunOnce(t.Context(), r.store, r.publish, nil); err != nil || len(r.calls) < 2 {
			t.Fatalf("%d calls, %v", len(r.calls), err)
		}
	})
}

func TestRunGivesBackAShardThatSomebodyWants(t *testing.T) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emit(10, 10)
		id := r.list(store.Pending)[9].ID
		var said []store.Withdrawal
		r.answers = func(*outbox.Message) error {
			got, err := r.store.Withdraw(t.Context(), id, "me")
			if err != nil {
				t.Error(err)
			}
			said = append(said, got)
			time.Sleep(20 * time.Second)
			return nil
		}
		calls := r.run(nil, relay.Result{Taken: 10, Sent: 9, Passed: 1})
		if slices.Contains(calls, "k91") || !slices.Contains(said, store.Withdrawn) || said[0] != store.Asked {
			t.Errorf("said %v, published %v", said, calls)
		}
	})
}

func TestRunWithinATransactionLastsWhenItCommits(t *testing.T) {
	t.Run("rolled back", func(t *testing.T) { runWithin(t, false) })
	t.Run("committed", func(t *testing.T) { runWithin(t, true) })
}

func runWithin(t *testing.T, commit bool) {
	inRuns(t, func(t *testing.T, r *runs) {
		r.emitKeys("t", "a", "a", "b", "bad")
		r.refusing(outbox.Invalid(errors.New("no")), "bad1")
		tx, err := r.store.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := relay.Result{Taken: 4, Sent: 3, Failed: 1, Dead: 1}
		wantCalls(t, r.runOn(r.store.Within(tx), nil, want), "a1", "a2", "b1", "bad1")
		wantCalls(t, r.runOn(r.store.Within(tx), nil, relay.Result{})) // it sees what it did
		wantCalls(t, r.run(nil, relay.Result{}))                       // others wait for it
		_, stop := r.start(nil)
		time.Sleep(time.Hour)
		if err := stop(); err != nil || len(r.broker.Messages("all")) > 0 {
			t.Errorf("a relay sent %d meanwhile, %v", len(r.broker.Messages("all")), err)
		}
		if !commit {
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			wantCalls(t, r.run(nil, want), "a1", "a2", "b1", "bad1")
			return
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		wantCalls(t, r.run(nil, relay.Result{}))
		r.wantDead("bad1 invalid 1")
	})
}
