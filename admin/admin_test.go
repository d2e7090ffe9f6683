package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/store"
)

var errBroken = errors.New("broken")

func ptr[T any](v T) *T { return &v }

// places lists and returns where the rows are.
func places(t *testing.T, f *fake, state store.State, filter admin.Filter) []int64 {
	t.Helper()
	var got []int64
	for row, err := range admin.New(f).List(t.Context(), state, filter) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, row.Place)
	}
	return got
}

func TestListGoesThroughAllPages(t *testing.T) {
	t.Parallel()
	f := new(fake).add(1201, nil)
	if got := places(t, f, store.Dead, admin.Filter{}); len(got) != 1201 || !slices.IsSorted(got) {
		t.Errorf("got %d messages, want 1201 in order", len(got))
	}
	if len(f.queries) != 3 {
		t.Errorf("asked %d times, want 3", len(f.queries))
	}
	f.queries = nil
	for _, err := range admin.New(f).List(t.Context(), store.Dead, admin.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if len(f.queries) != 1 {
		t.Errorf("asked %d times for the first message, want once", len(f.queries))
	}
}

func TestEachConditionLimits(t *testing.T) {
	t.Parallel()
	f := new(fake).add(6, func(i int, row *store.Stored) {
		row.Topic = []string{"order.placed", "order.paid", "user.created"}[i%3]
		row.Key, row.Tenant = []string{"", "k"}[i%2], []string{"", "t"}[i/3]
		row.Route = []string{"", "audit"}[i/5]
		row.Reason = []store.Reason{store.Exhausted, store.Invalid}[i/4]
	})
	f.add(2, func(i int, row *store.Stored) {
		row.State, row.CreatedAt, row.At = store.Pending, time.Unix(int64(100+i), 0), time.Time{}
		row.RetryIn = time.Duration(i-6) * time.Second
	})
	for _, tc := range []struct {
		name   string
		state  store.State
		filter admin.Filter
		want   []int64
	}{
		{"none", store.Dead, admin.Filter{}, []int64{1, 2, 3, 4, 5, 6}},
		{"ids", store.Dead, admin.Filter{IDs: []string{strings.ToUpper(testID(4)), testID(1), testID(1)}}, []int64{2, 5}},
		{"topic", store.Dead, admin.Filter{Topic: "order.*"}, []int64{1, 2, 4, 5}},
		{"no tenant", store.Dead, admin.Filter{Tenant: ptr("")}, []int64{1, 2, 3}},
		{"key", store.Dead, admin.Filter{Key: ptr("k")}, []int64{2, 4, 6}},
		{"route", store.Dead, admin.Filter{Route: ptr("audit")}, []int64{6}},
		{"reason", store.Dead, admin.Filter{Reason: store.Invalid}, []int64{5, 6}},
		{"before", store.Dead, admin.Filter{Before: time.Unix(2, 0)}, []int64{1, 2}},
		{"after", store.Dead, admin.Filter{After: time.Unix(3, 0)}, []int64{5, 6}},
		{"several", store.Dead, admin.Filter{Topic: "order.#", Key: ptr("k"), Before: time.Unix(3, 0)}, []int64{2}},
		{"pending by the time of the emit", store.Pending, admin.Filter{Before: time.Unix(107, 0)}, []int64{7}},
		{"waiting", store.Pending, admin.Filter{Waiting: true}, []int64{8}},
	} {
		if got := places(t, f, tc.state, tc.filter); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestFilterFaultsAreReportedAllAtOnce(t *testing.T) {
	t.Parallel()
	bad := admin.Filter{
		IDs: []string{"7"}, Topic: "a..b", Route: ptr("a b"), Reason: "tired", Before: time.Unix(1, 0), After: time.Unix(2, 0),
	}
	var f fake
	for _, err := range admin.New(&f).List(t.Context(), store.Sent, bad) {
		if err == nil {
			t.Fatal("a wrong filter is taken")
		}
		for _, word := range []string{`id "7"`, `topic "a..b"`, `route "a b"`, `reason "tired" is unknown`, "not before", "given for sent messages"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("nothing is said of %s: %v", word, err)
			}
		}
	}
	if len(f.queries) != 0 {
		t.Error("the store was asked")
	}
}

func TestNobodyRedrivesAllByAccident(t *testing.T) {
	t.Parallel()
	f := new(fake).add(3, nil)
	a := admin.New(f)
	for name, change := range map[string]func(context.Context, admin.Filter) (int, error){"redrive": a.Redrive, "discard": a.Discard, "retry": a.Retry} {
		if _, err := change(t.Context(), admin.Filter{NoPayload: true}); !errors.Is(err, admin.ErrNoCondition) {
			t.Errorf("%s without a condition: got %v", name, err)
		}
		for _, f := range []admin.Filter{{Tenant: ptr("")}, {Key: ptr("")}, {Route: ptr(""), Tenant: ptr("")}} {
			if _, err := change(t.Context(), f); !errors.Is(err, admin.ErrNoCondition) {
				t.Errorf("%s with nothing but empty names: got %v", name, err)
			}
		}
		if _, err := change(t.Context(), admin.Filter{All: true, Topic: "a"}); err == nil || !strings.Contains(err.Error(), "All is set beside [Topic]") {
			t.Errorf("%s of all and of some: got %v", name, err)
		}
	}
	if len(f.chunks) > 0 {
		t.Error("something was changed")
	}
	if n, err := a.Redrive(t.Context(), admin.Filter{All: true}); n != 3 || err != nil {
		t.Errorf("redrive of all: %d, %v", n, err)
	}
}

func TestChangesGoByChunks(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*admin.Admin, context.Context, admin.Filter) (int, error){
		"redrive": (*admin.Admin).Redrive, "discard": (*admin.Admin).Discard,
	} {
		// What dies again at once must not be taken again, and again.
		f := new(fake).add(1100, nil)
		f.again = true
		n, err := change(admin.New(f), t.Context(), admin.Filter{Topic: "order.#"})
		if n != 1100 || err != nil || !slices.Equal(f.chunks, []int{500, 500, 100}) {
			t.Errorf("%s: %d in chunks %v, %v", name, n, f.chunks, err)
		}
		if f.queries[0].NoPayload == false {
			t.Errorf("%s reads payloads", name)
		}
	}
	f := new(fake).add(1100, nil)
	f.failAt = 2
	if n, err := admin.New(f).Redrive(t.Context(), admin.Filter{All: true}); n != 500 || !errors.Is(err, errBroken) || len(f.chunks) != 2 {
		t.Errorf("a failing chunk: %d, %v, %v", n, f.chunks, err)
	}
}

func TestRetryTakesWhatWaits(t *testing.T) {
	t.Parallel()
	f := new(fake).add(4, func(i int, row *store.Stored) {
		row.State, row.RetryIn = store.Pending, []time.Duration{0, time.Second, store.Never, -1}[i]
	})
	if n, err := admin.New(f).Retry(t.Context(), admin.Filter{All: true}); n != 2 || err != nil || !slices.Equal(f.done, []int64{2, 3}) {
		t.Errorf("retried %v (%d), %v, want 2 and 3", f.done, n, err)
	}
}

func TestShowFindsAMessageEverywhere(t *testing.T) {
	t.Parallel()
	f := new(fake).add(5, func(i int, row *store.Stored) {
		row.State = []store.State{store.Sent, store.Dead, store.Scheduled, store.Pending, store.Pending}[i]
		row.ID = testID(min(i/4, 1))
	})
	rows, err := admin.New(f).Show(t.Context(), strings.ToUpper(testID(0)))
	var got []store.State
	for _, r := range rows {
		got = append(got, r.State)
	}
	if want := []store.State{store.Scheduled, store.Pending, store.Dead, store.Sent}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := admin.New(f).Show(t.Context(), "x"); err == nil {
		t.Error("x is taken for an id")
	}
}

func TestCancelAsksUntilItIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{withdrawals: []store.Withdrawal{store.Asked, store.Asked, store.Withdrawn}}
		begun := time.Now()
		w, err := admin.New(f).Cancel(t.Context(), testID(1))
		if w != store.Withdrawn || err != nil || time.Since(begun) != 200*time.Millisecond {
			t.Errorf("got %v, %v after %v", w, err, time.Since(begun))
		}
		if len(f.asked) != 3 || f.asked[0] != f.asked[2] || !slices.Equal(f.left, f.asked[:1]) {
			t.Errorf("asked by %v, let go by %v: want one name", f.asked, f.left)
		}
	})
}

func TestCancelLetsGoWhateverHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, w := range []store.Withdrawal{store.TooLate, store.IsDead, store.Absent, ""} {
			f := &fake{withdrawals: []store.Withdrawal{w}}
			got, err := admin.New(f).Cancel(t.Context(), testID(1))
			if got != w || (w == "") != errors.Is(err, errBroken) || len(f.left) != 1 {
				t.Errorf("%q: got %q, %v, let go %d times", w, got, err, len(f.left))
			}
		}
		f := &fake{withdrawals: []store.Withdrawal{store.Asked}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		w, err := admin.New(f).Cancel(ctx, testID(1))
		if w != store.Asked || !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "let go") || len(f.left) != 1 {
			t.Errorf("got %v, %v, let go %d times", w, err, len(f.left))
		}
	})
}

func TestPausesAreChecked(t *testing.T) {
	t.Parallel()
	a := admin.New(&fake{}) // which panics if it is asked
	for _, p := range []store.Pause{{Topic: "a..b"}, {Tenant: "t"}} {
		if _, err := a.Pause(t.Context(), p); err == nil {
			t.Errorf("pause %+v is taken", p)
		}
		if _, err := a.Resume(t.Context(), p); err == nil {
			t.Errorf("resume %+v is taken", p)
		}
	}
	for _, p := range []store.Pause{{}, {Topic: "a.#"}, {Tenant: "t", Key: "k"}, {Key: "k"}} {
		if err := admin.CheckPause(p); err != nil {
			t.Errorf("pause %+v: %v", p, err)
		}
	}
}

func TestExportSaysWhatAPayloadIs(t *testing.T) {
	t.Parallel()
	payloads := []struct {
		contentType, payload, encoding, want string
	}{
		{"application/json", `{"a": "<b>"}`, "json", `{"a":"<b>"}`},
		{"application/cloudevents+json", `[1]`, "json", `[1]`},
		{"application/json", `{`, "text", `"{"`},
		{"text/plain", `{"a":1}`, "text", `"{\"a\":1}"`},
		{"text/plain", ``, "text", `""`},
		{"application/json", "\"\xff\"", "base64", `"Iv8i"`},
		{"application/octet-stream", "\x00\xff", "base64", `"AP8="`},
	}
	f := new(fake).add(len(payloads), func(i int, row *store.Stored) {
		row.ContentType, row.Payload = payloads[i].contentType, []byte(payloads[i].payload)
	})
	var out bytes.Buffer
	n, err := admin.New(f).Export(t.Context(), &out, store.Dead, admin.Filter{})
	if n != len(payloads) || err != nil {
		t.Fatalf("exported %d, %v", n, err)
	}
	for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var got struct {
			Encoding string          `json:"payload_encoding"`
			Payload  json.RawMessage `json:"payload"`
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if got.Encoding != payloads[i].encoding || string(got.Payload) != payloads[i].want {
			t.Errorf("%q: got %s %s, want %s %s", payloads[i].payload, got.Encoding, got.Payload, payloads[i].encoding, payloads[i].want)
		}
	}
}

func TestExportHasAllKeysInOrder(t *testing.T) {
	t.Parallel()
	f := new(fake).add(1, func(_ int, row *store.Stored) { row.CreatedAt = time.Unix(0, 0) })
	var out bytes.Buffer
	if _, err := admin.New(f).Export(t.Context(), &out, store.Dead, admin.Filter{}); err != nil {
		t.Fatal(err)
	}
	const want = `{"state":"dead","place":1,"id":"0190a5a0-0000-7000-8000-000000000000","route":"","topic":"order.placed","key":"","tenant":"",` +
		`"type":"","version":"","content_type":"","headers":{},"created_at":"1970-01-01T00:00:00Z","deliver_at":null,"expires_at":null,` +
		`"position":1,"attempts":0,"last_error":"","retry_in_seconds":null,"blocked":false,"reason":"exhausted","parked":false,` +
		`"at":"1970-01-01T00:00:00Z","payload_encoding":"text","payload":"1"}` + "\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	out.Reset()
	if _, err := admin.New(f).Export(t.Context(), &out, store.Dead, admin.Filter{NoPayload: true}); err != nil || strings.Contains(out.String(), "payload") {
		t.Errorf("without payload: %v, %s", err, out.String())
	}
}
