package webhook

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox"
)

// batches returns the ids of the events of each request.
func batches(t *testing.T, s *sink) [][]string {
	t.Helper()
	var list [][]string
	for _, r := range s.requests() {
		if got := r.Header.Get("Content-Type"); got != "application/cloudevents-batch+json" || r.body[0] != '[' {
			t.Errorf("a batch is %s of the content type %q", r.body, got)
		}
		var ids []string
		for _, e := range events(t, r.body) {
			ids = append(ids, e.ID)
		}
		list = append(list, ids)
	}
	return list
}

func wantBatches(t *testing.T, s *sink, want ...[]string) {
	t.Helper()
	if got := batches(t, s); !slices.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("got the batches %v, want %v", got, want)
	}
}

func TestBatchesAreFilled(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{Mode: Batched, BatchSize: 3, Concurrency: 1})
	var replies []*reply
	for _, m := range messages(7) {
		replies = append(replies, publish(t, p, m))
	}
	for _, r := range replies[:6] {
		r.want(nil)
	}
	if n := len(replies[6].given); n != 0 {
		t.Errorf("a message that waits for more has %d answers", n)
	}
	for range 2 { // the second has nothing to send
		if err := p.Flush(); err != nil {
			t.Error(err)
		}
	}
	replies[6].want(nil)
	wantBatches(t, s, []string{"0", "1", "2"}, []string{"3", "4", "5"}, []string{"6"})
}

func TestBatchesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	const limit = 1 << 10
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{Mode: Batched, BatchBytes: limit, Concurrency: 1})
	var replies []*reply
	for i, m := range messages(12) {
		if i == 5 {
			m.Payload = fmt.Appendf(nil, `"%s"`, strings.Repeat("x", limit))
		}
		replies = append(replies, publish(t, p, m))
	}
	_ = p.Flush()
	for _, r := range replies {
		r.want(nil)
	}
	got := batches(t, s)
	for i, r := range s.requests() {
		if len(r.body) > limit && (len(got[i]) > 1 || got[i][0] != "5") {
			t.Errorf("batch %v has %d bytes", got[i], len(r.body))
		}
	}
	if len(got) > 6 || len(slices.Concat(got...)) != 12 {
		t.Errorf("got the batches %v", got)
	}
}

// One bad event holds up none but its own.
func TestARefusedBatchIsSentOneByOne(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge} {
		s := newSink(t, func(w http.ResponseWriter, r posted) {
			if strings.Contains(r.body, `"id":"1"`) {
				w.WriteHeader(code)
			}
		})
		p := open(t, s.URL, &PublisherConfig{Mode: Batched, BatchSize: 3})
		var replies []*reply
		for _, m := range messages(3) {
			replies = append(replies, publish(t, p, m))
		}
		class := map[int]error{400: outbox.ErrRefused, 413: outbox.ErrInvalid}[code]
		for i, want := range []error{nil, class, nil} {
			replies[i].want(want)
		}
		wantBatches(t, s, []string{"0", "1", "2"}, []string{"0"}, []string{"1"}, []string{"2"})
	}
}

// What is not about one event is not asked for each of them: they would all be
// refused, and a server that wants to be left alone would be asked at once.
func TestARefusalThatIsNotOfOneEventIsThatOfAll(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code   int
		header http.Header
		delay  time.Duration
	}{
		{code: 401}, {code: 403}, {code: 404}, {code: 405}, {code: 415},
		{503, http.Header{headerOutcome: {outcomeRetry}, "Retry-After": {"60"}}, time.Minute},
		{500, http.Header{"Retry-After": {"60"}}, time.Minute},
		{422, http.Header{"Retry-After": {"60"}}, time.Minute},
	} {
		s := newSink(t, func(w http.ResponseWriter, _ posted) {
			maps.Copy(w.Header(), test.header)
			w.WriteHeader(test.code)
		})
		p := open(t, s.URL, &PublisherConfig{Mode: Batched, BatchSize: 3})
		var replies []*reply
		for _, m := range messages(3) {
			replies = append(replies, publish(t, p, m))
		}
		for _, r := range replies {
			err := r.wait()
			wantClass(t, err, outbox.ErrRefused)
			if got := outbox.DelayOf(err); got != test.delay {
				t.Errorf("%d: the delay is %v, want %v", test.code, got, test.delay)
			}
		}
		wantBatches(t, s, []string{"0", "1", "2"})
	}
}

// One by one would take a slow server for ever, and the slot with it.
func TestSendingABatchOneByOneIsBoundedInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, timeout = 50, 10 * time.Second
		requests := 0
		begin := time.Now()
		p := open(t, "http://example.com", &PublisherConfig{
			Mode: Batched, BatchSize: size, Timeout: timeout,
			Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				requests++
				time.Sleep(4 * time.Second)
				return &http.Response{StatusCode: 422 + min(requests-1, 1)}, nil
			}),
		})
		codes := make(chan int, size)
		var first time.Duration
		for _, m := range messages(size) {
			p.Publish(t.Context(), m, func(err error) {
				if first == 0 {
					first = time.Since(begin)
				}
				var status *StatusError
				if wantClass(t, err, outbox.ErrRefused); errors.As(err, &status) {
					codes <- status.Code
				}
			})
		}
		for i := range size {
			want := 422 // the batch's
			if i < 3 {
				want = 423
			}
			if got := receive(t, codes, "an answer"); got != want {
				t.Errorf("answer %d is %d, want %d", i, got, want)
			}
		}
		if took := time.Since(begin); first != 8*time.Second || took != 16*time.Second || requests != 4 {
			t.Errorf("the first answer took %v, all %v, by %d requests", first, took, requests)
		}
	})
}

func TestAnUnavailableServerIsNotAskedForEachOfABatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		codes    []int
		requests int
		want     []error
	}{
		{[]int{503}, 1, []error{outbox.ErrUnavailable, outbox.ErrUnavailable, outbox.ErrUnavailable}},
		{[]int{400, 200, 503}, 3, []error{nil, outbox.ErrUnavailable, outbox.ErrUnavailable}},
	} {
		codes := make(chan int, 10)
		for _, c := range test.codes {
			codes <- c
		}
		s := newSink(t, func(w http.ResponseWriter, _ posted) { w.WriteHeader(<-codes) })
		p := open(t, s.URL, &PublisherConfig{Mode: Batched, BatchSize: 3})
		var replies []*reply
		for _, m := range messages(3) {
			replies = append(replies, publish(t, p, m))
		}
		for i, want := range test.want {
			replies[i].want(want)
		}
		if n := len(s.requests()); n != test.requests {
			t.Errorf("%v: the server got %d requests, want %d", test.codes, n, test.requests)
		}
	}
}

// What was refused before would have the others of a batch refused with it each time.
func TestWhatWasRefusedBeforeIsSentAlone(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{Mode: Batched, Concurrency: 1})
	var replies []*reply
	for i, m := range messages(5) {
		if i == 2 {
			m.Attempts = 1
		}
		replies = append(replies, publish(t, p, m))
	}
	_ = p.Flush()
	for _, r := range replies {
		r.want(nil)
	}
	wantBatches(t, s, []string{"0", "1"}, []string{"2"}, []string{"3", "4"})
}

func TestSendIsABatchOfOne(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{Mode: Batched})
	wantClass(t, p.Send(t.Context(), message("1", "")), nil)
	wantBatches(t, s, []string{"1"})
}
