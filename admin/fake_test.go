package admin_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

// fake is a store of which a test sees the calls. Only what admin uses is there.
type fake struct {
	store.Admin
	rows    []store.Stored
	queries []store.Query
	chunks  []int // of Redrive, Discard and Retry
	done    []int64
	failAt  int  // the call to Redrive that fails, from 1
	again   bool // what is redriven dies again at once

	withdrawals []store.Withdrawal
	asked       []string // who, by Withdraw
	left        []string // who, by LetGo
}

func (f *fake) add(n int, change func(i int, row *store.Stored)) *fake {
	for range n {
		i := len(f.rows)
		row := store.Stored{State: store.Dead, Place: int64(i + 1), Reason: store.Exhausted, At: time.Unix(int64(i), 0)}
		row.Message = outbox.Message{ID: testID(i), Topic: "order.placed", Position: int64(i + 1), Payload: []byte("1")}
		if change != nil {
			change(i, &row)
		}
		f.rows = append(f.rows, row)
	}
	return f
}

func testID(i int) string { return fmt.Sprintf("0190a5a0-0000-7000-8000-%012d", i) }

func (f *fake) List(_ context.Context, q store.Query) ([]store.Stored, error) {
	f.queries = append(f.queries, q)
	var out []store.Stored
	for _, row := range f.rows {
		equal := func(want *string, have string) bool { return want == nil || *want == have }
		if row.State == q.State && row.Place > q.After && equal(q.Tenant, row.Tenant) && equal(q.Key, row.Key) && equal(q.Route, row.Route) &&
			(len(q.IDs) == 0 || slices.Contains(q.IDs, row.ID)) && (q.Reason == "" || q.Reason == row.Reason) && (!q.Waiting || row.RetryIn > 0) {
			if q.NoPayload {
				row.Payload = nil
			}
			out = append(out, row)
		}
	}
	slices.SortFunc(out, func(a, b store.Stored) int { return cmp.Compare(a.Place, b.Place) })
	return out[:min(len(out), q.Limit)], nil
}

func (f *fake) Redrive(_ context.Context, places []int64) (int, error) {
	f.chunks = append(f.chunks, len(places))
	if len(f.chunks) == f.failAt {
		return 0, errBroken
	}
	f.done = append(f.done, places...)
	if f.again {
		f.add(len(places), nil)
	}
	return len(places), nil
}

func (f *fake) Discard(ctx context.Context, places []int64) (int, error) {
	return f.Redrive(ctx, places)
}

func (f *fake) Retry(ctx context.Context, refs []store.Ref) (int, error) {
	var positions []int64
	for _, r := range refs {
		positions = append(positions, r.Position)
	}
	return f.Redrive(ctx, positions)
}

func (f *fake) Withdraw(_ context.Context, _, who string) (store.Withdrawal, error) {
	f.asked = append(f.asked, who)
	w := f.withdrawals[0]
	if len(f.withdrawals) > 1 {
		f.withdrawals = f.withdrawals[1:]
	}
	if w == "" {
		return "", errBroken
	}
	return w, nil
}

func (f *fake) LetGo(ctx context.Context, who string) error {
	f.left = append(f.left, who)
	return ctx.Err()
}
