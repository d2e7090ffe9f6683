package webhook

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/outbox-go/outbox"
)

// BenchmarkPublish sends messages of 250 bytes to a server in this process.
func BenchmarkPublish(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	b.Cleanup(server.Close)
	payload := fmt.Appendf(nil, `{"text":"%0240d"}`, 1)
	for name, config := range map[string]PublisherConfig{
		"structured": {}, "binary": {Mode: Binary}, "batched": {Mode: Batched}, "one at a time": {Concurrency: 1},
	} {
		b.Run(name, func(b *testing.B) {
			p, err := NewPublisher(server.URL, &config)
			if err != nil {
				b.Fatal(err)
			}
			defer p.Close()
			m := &outbox.Message{ID: "0190b5a8-0000-7000-8000-000000000001", Topic: "user.created", ContentType: outbox.ContentTypeJSON, Payload: payload}
			var failed atomic.Int64
			for b.Loop() {
				p.Publish(context.Background(), m, func(err error) {
					if err != nil {
						failed.Add(1)
					}
				})
			}
			if n := failed.Load(); n > 0 {
				b.Errorf("%d messages were not taken", n)
			}
		})
	}
}
