package webhook_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
)

// A relay calls Publish; Send waits for the answer.
func ExamplePublisher() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("%s\n%s\n", r.Header.Get("Content-Type"), body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer server.Close()

	publisher, err := webhook.NewPublisher(server.URL, &webhook.PublisherConfig{Source: "/users"})
	if err != nil {
		panic(err)
	}
	defer publisher.Close()
	fmt.Println(publisher.Send(context.Background(), &outbox.Message{
		ID: "0190b5a8-0000-7000-8000-000000000001", Topic: "user.created", Key: "123",
		ContentType: outbox.ContentTypeJSON, Payload: []byte(`{"name":"Ada"}`),
	}))
	// Output:
	// application/cloudevents+json
	// {"specversion":"1.0","id":"0190b5a8-0000-7000-8000-000000000001","source":"/users","type":"user.created","partitionkey":"123","outboxtopic":"user.created","datacontenttype":"application/json","data":{"name":"Ada"}}
	// <nil>
}

// Messages become calls of Segment's HTTP tracking API
// (https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/),
// which drops a messageId that it has had before. The write key comes from a variable.
func ExamplePublisherConfig_segment() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, _, _ := r.BasicAuth()
		body, _ := io.ReadAll(r.Body)
		fmt.Printf("%s %s by %q\n%s\n", r.Method, r.URL.Path, key, body)
	}))
	defer server.Close()
	address := server.URL + "/v1/track" // https://api.segment.io/v1/track

	type track struct {
		MessageID  string          `json:"messageId"`
		UserID     string          `json:"userId"`
		Event      string          `json:"event"`
		Properties json.RawMessage `json:"properties"`
		Timestamp  time.Time       `json:"timestamp"`
	}
	body := func(m *outbox.Message) (*webhook.Request, error) {
		if m.Key == "" {
			return nil, outbox.Invalid(fmt.Errorf("message %s is of no user", m.ID))
		}
		text, err := json.Marshal(track{m.ID, m.Key, m.Topic, m.Payload, m.CreatedAt})
		return &webhook.Request{ContentType: "application/json", Body: text}, err
	}
	credentials := base64.StdEncoding.EncodeToString([]byte(os.Getenv("SEGMENT_WRITE_KEY") + ":"))
	publisher, err := webhook.NewPublisher(address, &webhook.PublisherConfig{
		Headers: http.Header{"Authorization": {"Basic " + credentials}},
		Body:    body,
	})
	if err != nil {
		panic(err)
	}
	defer publisher.Close()

	err = publisher.Send(context.Background(), &outbox.Message{
		ID: "0190b5a8-0000-7000-8000-000000000001", Topic: "order.completed", Key: "user-7", ContentType: outbox.ContentTypeJSON,
		Payload: []byte(`{"total":12.5,"currency":"EUR"}`), CreatedAt: time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC),
	})
	fmt.Println(err)
	err = publisher.Send(context.Background(), &outbox.Message{ID: "2", Topic: "cron.ran", Payload: []byte(`{}`)})
	fmt.Println(strings.Contains(err.Error(), "is of no user"))
	// Output:
	// POST /v1/track by ""
	// {"messageId":"0190b5a8-0000-7000-8000-000000000001","userId":"user-7","event":"order.completed","properties":{"total":12.5,"currency":"EUR"},"timestamp":"2024-05-01T12:00:00Z"}
	// <nil>
	// true
}
