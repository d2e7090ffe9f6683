package webhook

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// A message that the server does not get over is refused, so that others pass it, but
// only when it is known that the server is well.
func TestAMessageThatGetsNoAnswerWhileOthersDoIsRefused(t *testing.T) {
	t.Parallel()
	for name, fate := range map[string]func(http.ResponseWriter, posted){
		"hangs": func(_ http.ResponseWriter, r posted) { <-r.Context().Done() },
		"cut":   func(http.ResponseWriter, posted) { panic(http.ErrAbortHandler) },
		"502":   func(w http.ResponseWriter, _ posted) { w.WriteHeader(http.StatusBadGateway) },
		"504":   func(w http.ResponseWriter, _ posted) { w.WriteHeader(http.StatusGatewayTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSink(t, func(w http.ResponseWriter, r posted) {
				if strings.Contains(r.body, `"id":"poison"`) {
					fate(w, r)
				}
			})
			config := &PublisherConfig{}
			if name == "hangs" {
				config.Timeout = time.Second
			}
			p := open(t, s.URL, config)
			for i, step := range []struct {
				id   string
				want error
			}{
				{"well", nil},
				{"poison", outbox.ErrUnavailable}, // it may be the server
				{"poison", outbox.ErrUnavailable}, // still
				{"well", nil},
				{"poison", outbox.ErrRefused},
				{"poison", outbox.ErrUnavailable}, // the server may be gone by now
				{"well", nil},
				{"poison", outbox.ErrRefused},
			} {
				err := p.Send(t.Context(), message(step.id, ""))
				if !errors.Is(err, step.want) {
					t.Errorf("step %d: the answer is %v, want %v", i, err, step.want)
				}
				wantClass(t, err, step.want)
			}
		})
	}
}

// One that comes through is none any more.
func TestAMessageThatSucceedsIsNotSuspectedAnyMore(t *testing.T) {
	t.Parallel()
	codes := make(chan int, 1)
	s := newSink(t, func(w http.ResponseWriter, _ posted) { w.WriteHeader(<-codes) })
	p := open(t, s.URL, nil)
	for _, step := range []struct {
		code int
		want error
	}{{504, outbox.ErrUnavailable}, {204, nil}, {504, outbox.ErrUnavailable}} {
		codes <- step.code
		wantClass(t, p.Send(t.Context(), message("1", "")), step.want)
	}
}

// What was not even sent says nothing of the message.
func TestAServerThatCannotBeReachedIsNoMessagesFault(t *testing.T) {
	t.Parallel()
	down := false
	p := open(t, "http://example.com", &PublisherConfig{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		if down {
			return nil, &net.OpError{Op: "dial", Err: io.EOF}
		}
		return &http.Response{StatusCode: http.StatusNoContent}, nil
	})})
	for range 3 {
		down = true
		wantClass(t, p.Send(t.Context(), message("1", "")), outbox.ErrUnavailable)
		down = false
		wantClass(t, p.Send(t.Context(), message("2", "")), nil)
	}
}

// Whose fault it is that a batch gets no answer shows when its members are alone.
func TestTheMembersOfABatchWithoutAnswerAreSentAlone(t *testing.T) {
	t.Parallel()
	s := newSink(t, func(w http.ResponseWriter, r posted) {
		if strings.Contains(r.body, `"id":"1"`) {
			w.WriteHeader(http.StatusGatewayTimeout)
		}
	})
	p := open(t, s.URL, &PublisherConfig{Mode: Batched, BatchSize: 3, Concurrency: 1})
	for _, wants := range [][]error{
		{outbox.ErrUnavailable, outbox.ErrUnavailable, outbox.ErrUnavailable},
		{nil, outbox.ErrRefused, nil},
		{nil, nil, nil},
	} {
		var replies []*reply
		for _, m := range messages(3) {
			if wants[1] == nil {
				m = message("later "+m.ID, "")
			}
			replies = append(replies, publish(t, p, m))
		}
		for i, want := range wants {
			replies[i].want(want)
		}
		time.Sleep(rest)
	}
	wantBatches(t, s, []string{"0", "1", "2"}, []string{"0"}, []string{"1"}, []string{"2"}, []string{"later 0", "later 1", "later 2"})
}

func TestSuspectsAreBoundedAndTheNewestAreKept(t *testing.T) {
	t.Parallel()
	var s suspects
	for i := range 3*maxSuspects + 1 {
		id := strconv.Itoa(i)
		s.blame(id)
		if i%2 == 1 {
			s.clear(id)
		}
		if len(s.seen) > maxSuspects || len(s.order) > maxSuspects {
			t.Fatalf("%d and %d are remembered", len(s.seen), len(s.order))
		}
	}
	if !s.has(strconv.Itoa(3*maxSuspects)) || !s.has(strconv.Itoa(3*maxSuspects-2)) || s.has("0") {
		t.Error("the newest are forgotten, or the oldest are not")
	}
	s.blame("again")
	s.clear("other")
	if !s.blame("again") || slices.Contains(s.order, "other") {
		t.Error("a suspect is forgotten when another succeeds")
	}
}
