package storetest

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/outbox-go/outbox/store"
)

func pauseCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Pause/AndResume", run: pauseResume[Tx]},
		{name: "Pause/AtTheSameTime", run: pauseConcurrently[Tx]},
	}
}

func (e *env[Tx]) wantPauses(want ...store.Pause) {
	e.t.Helper()
	order := func(a, b store.Pause) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Key, b.Key))
	}
	got, err := e.Store.Pauses(e.ctx)
	e.ok(err, "pauses")
	slices.SortFunc(got, order)
	slices.SortFunc(want, order)
	if !slices.Equal(got, want) {
		e.t.Fatalf("held back are %+v, want %+v", got, want)
	}
}

func pauseResume[Tx any](e *env[Tx]) {
	e.wantPauses()
	all := []store.Pause{{}, {Topic: "a.*"}, {Topic: "b.>", Tenant: "it's", Key: "k"}, {Key: "k"}, {Tenant: "x", Key: "k"}, {Tenant: "x"}}
	for i, p := range all {
		for _, want := range []bool{true, false} {
			isNew, err := e.Store.Pause(e.ctx, p)
			e.ok(err, "pause")
			if isNew != want {
				e.t.Fatalf("pause of %+v says new: %t, want %t", p, isNew, want)
			}
		}
		e.wantPauses(slices.Clone(all[:i+1])...)
	}
	e.Store = e.Open(e.t)
	e.wantPauses(slices.Clone(all)...)
	e.route("side").wantPauses(slices.Clone(all)...)
	for i, p := range all {
		for _, want := range []bool{true, false} {
			was, err := e.Store.Resume(e.ctx, p)
			e.ok(err, "resume")
			if was != want {
				e.t.Fatalf("resume of %+v says that it was there: %t, want %t", p, was, want)
			}
		}
		e.wantPauses(slices.Clone(all[i+1:])...)
	}
}

func pauseConcurrently[Tx any](e *env[Tx]) {
	stores := []Store[Tx]{e.Store, e.Open(e.t)}
	errs := make([]error, 4)
	var isNew atomic.Int64
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			ok, err := stores[i%2].Pause(e.ctx, store.Pause{Topic: "a"})
			if errs[i] = err; ok {
				isNew.Add(1)
			}
		})
	}
	group.Wait()
	e.ok(errors.Join(errs...), "pause")
	if isNew.Load() != 1 {
		e.t.Fatalf("%d say that it was new, want 1", isNew.Load())
	}
	e.wantPauses(store.Pause{Topic: "a"})
}
