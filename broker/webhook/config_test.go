package webhook

import (
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
)

// A sender of ours waits longer than a receiver of ours: else each would take the
// other for broken where a handler is slow.
func TestThePublisherWaitsLongerThanTheReceiver(t *testing.T) {
	t.Parallel()
	if sends, receives := (*PublisherConfig)(nil).withDefaults().Timeout, (*ReceiverConfig)(nil).withDefaults().Timeout; sends <= receives {
		t.Errorf("Publisher.Timeout is %v, Receiver.Timeout %v", sends, receives)
	}
}

func TestFaultsOfTheConfiguration(t *testing.T) {
	t.Parallel()
	aURL := func(*outbox.Message) string { return "" }
	for _, test := range []struct {
		name, url string
		config    *PublisherConfig
		want      []string
	}{
		{"no URL", "", nil, []string{"URL is empty"}},
		{"URL of no form", "http://a b:hunter2@c/%zz", nil, []string{"URL cannot be parsed"}},
		{"other scheme", "amqp://user:hunter2@localhost", nil, []string{"URL does not begin with http:// or https://"}},
		{"no scheme", "example.com/hunter2", nil, []string{"URL does not begin with http:// or https://"}},
		{"no host", "http:///hunter2", nil, []string{"URL has no host"}},
		{"fragment", "http://example.com/#hunter2", nil, []string{"URL has a fragment"}},
		{"mode", "", &PublisherConfig{Mode: 3, URL: aURL}, []string{"Mode is 3"}},
		{"source", "http://a", &PublisherConfig{Source: "my shop"}, []string{`Source "my shop"`}},
		{"numbers", "http://a", &PublisherConfig{Timeout: -1, Concurrency: 1001, BatchSize: -1, BatchBytes: 100},
			[]string{"Timeout is -1ns", "Concurrency is 1001", "BatchSize is -1", "BatchBytes is 100"}},
		{"more numbers", "http://a", &PublisherConfig{Timeout: time.Microsecond, Concurrency: -1, BatchSize: 10001, BatchBytes: 1 << 30},
			[]string{"Timeout is 1µs", "Concurrency is -1", "BatchSize is 10001", "BatchBytes is 1073741824"}},
		{"secrets", "http://a", &PublisherConfig{Secrets: []string{oldSecret, "hunter2", "whsec_hunter2", "whsec_aHVudGVyMg=="}},
			[]string{`Secrets[1] is not "whsec_"`, `Secrets[2] is not "whsec_"`, "Secrets[3] has 7 bytes"}},
		{"headers", "http://a", &PublisherConfig{Headers: http.Header{
			"content-type": {"x"}, "Ce-Id": {"x"}, "Webhook-Id": {"x"}, "Bad Name": {"x"}, "Authorization": {"Bearer hunter2\n"},
		}}, []string{"content-type is set by", "Ce-Id is set by", "Webhook-Id is set by", `name "Bad Name"`, `value of "Authorization" has a control character`}},
		{"URL in batches", "http://a", &PublisherConfig{Mode: Batched, URL: aURL}, []string{"URL does not go with Mode Batched"}},
		{"Body in binary", "http://a", &PublisherConfig{Mode: Binary, Body: func(*outbox.Message) (*Request, error) { return nil, nil }},
			[]string{"Body goes with Mode Structured"}},
		{"Allow alone", "http://a", &PublisherConfig{Allow: func(string) bool { return true }}, []string{"Allow is of use with URL alone"}},
		{"TLS and Transport", "http://h", &PublisherConfig{TLS: &tls.Config{}, Transport: &http.Transport{}}, []string{"TLS does not go with Transport"}},
		{"Transport that cannot be guarded", "", &PublisherConfig{URL: aURL, Transport: roundTrip(nil)}, []string{"Transport is a webhook.roundTrip"}},
		{"several", "x", &PublisherConfig{Mode: -1, Concurrency: -1, Secrets: []string{"x"}}, []string{"URL", "Mode", "Concurrency", "Secrets[0]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, err := NewPublisher(test.url, test.config)
			if err == nil {
				p.Close()
				t.Fatal("there is no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error is\n%v\nwant it to say %q", err, want)
				}
			}
			if got := strings.Count(err.Error(), "\n") + 1; got != len(test.want) {
				t.Errorf("there are %d faults, want %d:\n%v", got, len(test.want), err)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "aHVudGVyMg") {
				t.Errorf("the error has a secret: %v", err)
			}
		})
	}
}
