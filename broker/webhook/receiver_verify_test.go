package webhook_test

import (
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
)

func secret(fill string) string {
	return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(fill, 32)))
}

// TestSignatures are made by the standard's own library.
func TestSignatures(t *testing.T) {
	t.Parallel()
	b := newBed(t, &webhook.ReceiverConfig{Secrets: []string{secret("a"), secret("b")}})
	b.subscribe(1, settling(t, ack))
	body := event("1", "a")
	sign := func(secret string, at time.Time, body string) string {
		w, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := w.Sign("msg", at, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	now := time.Now()
	right := sign(secret("b"), now, body)
	for name, test := range map[string]struct {
		id, signature string
		at            time.Time
		status        int
		words         string
	}{
		"right":            {"msg", right, now, 204, ""},
		"the other":        {"msg", sign(secret("a"), now, body), now, 204, ""},
		"of several":       {"msg", sign(secret("c"), now, body) + " v2,x v1,? " + right, now, 204, ""},
		"old enough":       {"msg", sign(secret("a"), now.Add(-4*time.Minute), body), now.Add(-4 * time.Minute), 204, ""},
		"too old":          {"msg", sign(secret("a"), now.Add(-6*time.Minute), body), now.Add(-6 * time.Minute), 401, "older"},
		"of the future":    {"msg", sign(secret("a"), now.Add(6*time.Minute), body), now.Add(6 * time.Minute), 401, "future"},
		"of the far past":  {"msg", right, time.Unix(-1<<62, 0), 401, "older"},
		"unknown secret":   {"msg", sign(secret("c"), now, body), now, 401, "known secret"},
		"other body":       {"msg", sign(secret("a"), now, body+" "), now, 401, "known secret"},
		"other id":         {"gsm", right, now, 401, "known secret"},
		"other time":       {"msg", right, now.Add(time.Second), 401, "known secret"},
		"no id":            {"", right, now, 401, "webhook-id"},
		"no signature":     {"msg", "", now, 401, "webhook-signature"},
		"empty signature":  {"msg", "v1,", now, 401, "known secret"},
		"no version":       {"msg", strings.TrimPrefix(right, "v1,"), now, 401, "known secret"},
		"other version":    {"msg", "v1a," + strings.TrimPrefix(right, "v1,"), now, 401, "known secret"},
		"several in a row": {"msg", strings.ReplaceAll(right, "=", ""), now, 401, "known secret"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := b.request(t.Context(), http.MethodPost, structured, body)
			set := func(name, value string) {
				if value != "" {
					req.Header.Set(name, value)
				}
			}
			set("webhook-id", test.id)
			set("webhook-signature", test.signature)
			set("webhook-timestamp", strconv.FormatInt(test.at.Unix(), 10))
			r := do(req)
			wantStatus(t, r, test.status)
			if !strings.Contains(r.body, test.words) {
				t.Errorf("body %q, want %q", r.body, test.words)
			}
		})
	}
	req := b.request(t.Context(), http.MethodPost, structured, body)
	req.Header = http.Header{"Webhook-Id": {"msg"}, "Webhook-Timestamp": {"now"}, "Webhook-Signature": {right}}
	wantStatus(t, do(req), 401)
}

// TestSignedByThePublisher: its secrets can be replaced one after the other, at both
// ends.
func TestSignedByThePublisher(t *testing.T) {
	t.Parallel()
	b := newBed(t, &webhook.ReceiverConfig{Secrets: []string{secret("b"), secret("c")}})
	b.subscribe(1, settling(t, ack))
	for _, mode := range []webhook.Mode{webhook.Structured, webhook.Binary, webhook.Batched} {
		for _, secrets := range [][]string{{secret("a"), secret("b")}, {secret("c")}, {secret("a")}, nil} {
			p, err := webhook.NewPublisher(b.url, &webhook.PublisherConfig{Mode: mode, Secrets: secrets})
			if err != nil {
				t.Fatal(err)
			}
			known := slices.Contains(secrets, secret("b")) || slices.Contains(secrets, secret("c"))
			if err := p.Send(t.Context(), &outbox.Message{ID: "1", Topic: "a"}); (err == nil) != known {
				t.Errorf("mode %d, known %t: %v", mode, known, err)
			}
			_ = p.Close()
		}
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	b := newBed(t, &webhook.ReceiverConfig{Authorize: func(req *http.Request, body []byte) error {
		if req.Header.Get("X-Sum") != strconv.Itoa(len(body)) {
			return errors.New("a secret reason")
		}
		return nil
	}})
	b.subscribe(1, settling(t, ack))
	r := b.post(structured, event("1", "a"))
	wantStatus(t, r, 401)
	if strings.Contains(r.body, "secret") {
		t.Errorf("body %q shows the reason", r.body)
	}
	req := b.request(t.Context(), http.MethodPost, structured, event("1", "a"))
	req.Header.Set("X-Sum", strconv.FormatInt(req.ContentLength, 10))
	wantStatus(t, do(req), 204)
}
