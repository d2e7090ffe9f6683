package webhook

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

const (
	oldSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	newSecret = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
)

// The example that the implementations of Standard Webhooks share.
func TestSignatureOfTheStandardsExample(t *testing.T) {
	t.Parallel()
	keys, err := parseSecrets([]string{oldSecret})
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	keys.sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got := h.Get("webhook-signature"); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("got %s", got)
	}
}

func TestRequestsAreSigned(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{Structured, Binary, Batched} {
		s := newSink(t, nil)
		p := open(t, s.URL, &PublisherConfig{Mode: mode, Secrets: []string{oldSecret, newSecret}})
		before := time.Now().Unix()
		wantClass(t, p.Send(t.Context(), message("id 1", "")), nil)
		r := s.only(t)
		at, err := strconv.ParseInt(r.Header.Get("webhook-timestamp"), 10, 64)
		if err != nil || at < before || at > time.Now().Unix() || r.Header.Get("webhook-id") != "id%201" {
			t.Errorf("mode %d: signed as %q at %q", mode, r.Header.Get("webhook-id"), r.Header.Get("webhook-timestamp"))
		}
		var want []string
		for _, secret := range []string{oldSecret, newSecret} {
			key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
			mac := signature(key, "id%201", strconv.FormatInt(at, 10), []byte(r.body))
			want = append(want, "v1,"+base64.StdEncoding.EncodeToString(mac))
		}
		if got := r.Header.Get("webhook-signature"); got != strings.Join(want, " ") {
			t.Errorf("mode %d: the signature is %s, want %s", mode, got, want)
		}
	}
}

// A receiver that drops what has the id of something else loses messages.
func TestBatchesThatDifferHaveIDsThatDiffer(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{Mode: Batched, Secrets: []string{oldSecret}})
	for _, ids := range [][]string{{"1"}, {"1", "2"}, {"1", "2", "3"}, {"12", "3"}, {"1", "2"}} {
		var replies []*reply
		for _, id := range ids {
			replies = append(replies, publish(t, p, message(id, "")))
		}
		_ = p.Flush()
		for _, r := range replies {
			r.want(nil)
		}
	}
	seen := map[string]int{}
	for i, r := range s.requests() {
		id := r.Header.Get("webhook-id")
		if before, ok := seen[id]; ok && (before != 1 || i != 4) {
			t.Errorf("batches %d and %d have the id %s", before, i, id)
		}
		seen[id] = i
	}
	if len(seen) != 4 || s.requests()[0].Header.Get("webhook-id") != "1" {
		t.Errorf("got the ids %v, want 4, the first of them 1", seen)
	}
}

var _ outbox.Publisher = outbox.PublishFunc((*Publisher)(nil).Send)
