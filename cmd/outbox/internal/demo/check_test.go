package demo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// orders returns the orders 1 to n of an account.
func orders(account string, n int) []order {
	list := make([]order, n)
	for i := range list {
		list[i] = order{ID: fmt.Sprintf("%s-%d", account, i+1), Account: account, N: int64(i + 1)}
	}
	return list
}

func TestCheckerJudges(t *testing.T) {
	t.Parallel()
	a, b := orders("a", 4), orders("b", 2)
	committed := slices.Concat(a, b)
	phantom := order{ID: "rolled back", Account: "a", N: 3}
	forged := order{ID: a[1].ID, Account: "a", N: 9}
	for name, tc := range map[string]struct {
		delivered []order
		want      Result
		fails     bool
	}{
		"all, keys mixed":           {[]order{a[0], b[0], a[1], a[2], b[1], a[3]}, Result{Delivered: 6}, false},
		"repeats after the first":   {[]order{a[0], a[1], a[0], a[1], a[2], a[3], b[0], b[0], b[1], b[0]}, Result{Delivered: 6, Duplicates: 4}, false},
		"one lost at the end":       {[]order{a[0], a[1], a[2], b[0], b[1]}, Result{Delivered: 5, Lost: 1}, true},
		"one lost in the middle":    {[]order{a[0], a[2], a[3], b[0], b[1]}, Result{Delivered: 5, Lost: 1}, true},
		"nothing delivered":         {nil, Result{Lost: 6}, true},
		"two swapped":               {[]order{a[0], a[2], a[1], a[3], b[0], b[1]}, Result{Delivered: 6, OutOfOrder: 1}, true},
		"the first one last":        {[]order{a[1], a[2], a[3], a[0], b[0], b[1]}, Result{Delivered: 6, OutOfOrder: 1}, true},
		"all backwards":             {[]order{a[3], a[2], a[1], a[0], b[0], b[1]}, Result{Delivered: 6, OutOfOrder: 3}, true},
		"a rolled-back one":         {[]order{a[0], a[1], phantom, a[2], a[3], b[0], b[1]}, Result{Delivered: 7, Phantom: 1}, true},
		"another counter than sent": {[]order{a[0], forged, a[2], a[3], b[0], b[1]}, Result{Delivered: 6, Lost: 1, Phantom: 1, OutOfOrder: 2}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(len(committed))
			l.rollsBack()
			for _, o := range tc.delivered {
				l.deliver(o, time.Now())
			}
			got := l.judge(committed)
			tc.want.Committed, tc.want.RolledBack = len(committed), 1
			got.MessagesPerSecond = 0
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if err := got.Err(); (err != nil) != tc.fails {
				t.Errorf("Err is %v, fails should be %v", err, tc.fails)
			}
		})
	}
}

func TestCheckerMeasures(t *testing.T) {
	t.Parallel()
	began := time.Now()
	l := newLedger(0)
	l.emitting(began)
	l.emitting(began.Add(time.Second))
	committed := orders("a", 100)
	for i, o := range committed {
		commit := began.Add(time.Duration(i) * 10 * time.Millisecond)
		l.commits(o.ID, commit)
		l.deliver(o, commit.Add(time.Duration(100-i)*time.Millisecond))
		l.deliver(o, commit.Add(time.Hour)) // a repeat is late by nature
		l.latest = began.Add(2 * time.Second)
	}
	got := l.judge(committed)
	if got.LatencyP50 != 50 || got.LatencyP99 != 99 || got.MessagesPerSecond != 50 {
		t.Errorf("got %+v, want a median of 50 ms, 99 %% in 99 ms, and 50 messages/s", got)
	}
}

func TestGapsInCounters(t *testing.T) {
	t.Parallel()
	all := slices.Concat(orders("a", 3), orders("b", 3))
	if got := gaps(all); len(got) != 0 {
		t.Errorf("got %q, want none", got)
	}
	if got := gaps(slices.Delete(all, 4, 5)); !slices.Equal(got, []string{"b"}) {
		t.Errorf("got %q, want b", got)
	}
}

func TestJSONHasTheKeys(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := (&Result{Committed: 3, LatencyP50: 1.23456}).WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	var object map[string]float64
	if err := json.Unmarshal(out.Bytes(), &object); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"committed", "delivered", "duplicates", "latency_p50_ms", "latency_p99_ms", "lost",
		"messages_per_second", "out_of_order", "phantom", "rolled_back",
	}
	if got := slices.Sorted(maps.Keys(object)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if object["committed"] != 3 || object["latency_p50_ms"] != 1.2 || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("got %s", out.String())
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) is %q, want %q", n, got, want)
		}
	}
}

func TestBar(t *testing.T) {
	t.Parallel()
	const want = "[==========                              ]  25 %  2,500 of 10,000 delivered, 1,250/s"
	if got := bar(2500, 10_000, 2*time.Second); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
