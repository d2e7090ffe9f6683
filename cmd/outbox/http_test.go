package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
)

// hook is an HTTP address that writes down what it gets, and answers with a status.
type hook struct {
	*httptest.Server
	status int

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

func newHook(t *testing.T, status int) *hook {
	h := &hook{status: status}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		h.requests, h.bodies = append(h.requests, r), append(h.bodies, string(body))
		h.mu.Unlock()
		w.WriteHeader(h.status)
	}))
	t.Cleanup(h.Close)
	return h
}

// TestRoutesByHTTPHaveTheirOwnSecrets: what is for the address of broker.url is not
// sent to that of a route.
func TestRoutesByHTTPHaveTheirOwnSecrets(t *testing.T) {
	t.Parallel()
	common, own := newHook(t, http.StatusAccepted), newHook(t, http.StatusNoContent)
	d := sqliteDesk(t)
	d.env["TOKEN"], d.env["SECRET"] = "geheim", "whsec_"+strings.Repeat("QUJD", 8)
	delete(d.env, "OUTBOX_BROKER_URL")
	d.env["OUTBOX_CONFIG"] = yamlFile(t, fmt.Sprintf(`
broker: {url: '%s/common', mode: binary, source: /shop, request_headers: ['Authorization: Bearer ${TOKEN}'], secrets: ['${SECRET}']}
routes:
  all: {topics: ['#']}
  own: {topics: ['#'], broker_url: '%s/own', mode: structured, request_headers: ['X-Key: a, b']}
`, common.URL, own.URL))
	id := d.emit("--topic", "user.created", "--key", "7")
	p := start(t, d.env, "relay")
	await(t, "both requests", func() bool { return common.count() == 1 && own.count() == 1 })
	p.stop()
	p.said().want(t, 0)
	header := common.requests[0].Header
	if common.requests[0].URL.Path != "/common" || header.Get("Ce-Id") != id || header.Get("Ce-Source") != "/shop" || header.Get("Authorization") != "Bearer geheim" ||
		header.Get("Webhook-Signature") == "" || common.bodies[0] != `{"n":1}` {
		t.Errorf("the common address got %v, %s", header, common.bodies[0])
	}
	header = own.requests[0].Header
	if header.Get("Authorization") != "" || header.Get("Webhook-Signature") != "" || header.Get("X-Key") != "a, b" || !strings.Contains(own.bodies[0], `"id":"`+id+`"`) {
		t.Errorf("the route's own address got %v, %s", header, own.bodies[0])
	}
	if strings.Contains(p.said().stderr, "geheim") || strings.Contains(p.said().stderr, "whsec") {
		t.Errorf("a secret is logged:\n%s", p.said().stderr)
	}
}

func (h *hook) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.bodies)
}

// TestSendByHTTPAndSTOMP: the answer is waited for.
func TestSendByHTTPAndSTOMP(t *testing.T) {
	t.Parallel()
	good, bad := newHook(t, http.StatusAccepted), newHook(t, http.StatusNotFound)
	got := call(t, nil, "", "send", "--broker-url", good.URL, "--broker-mode", "batched", "--lines", "--file", yamlFile(t, `{"topic":"a","payload":1}`+"\n"+`{"topic":"b","payload":2}`))
	got.want(t, 0)
	for _, id := range strings.Fields(got.stdout) {
		if !strings.Contains(strings.Join(good.bodies, ""), id) {
			t.Errorf("%s is not in %s", id, good.bodies)
		}
	}
	call(t, nil, "", "send", "--broker-url", bad.URL, "--topic", "a", "--data", "1").want(t, exitFailure, "message refused", "404")
	mq := testenv.RabbitMQ(t)
	url := mq.NewVHost(t)
	ch := rabbitChannel(t, url)
	if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind("q", "user.#", "amq.topic", false, nil); err != nil {
		t.Fatal(err)
	}
	sent := call(t, nil, "", "send", "--broker-url", mq.STOMPURL(url), "--broker-dop", "yes", "--topic", "user.created", "--data", "{}")
	sent.want(t, 0)
	m, ok, err := ch.Get("q", true)
	if err != nil || !ok || m.Headers["dop-msg-id"] != strings.TrimSpace(sent.stdout) || !bytes.Equal(m.Body, []byte("{}")) || !slices.Contains([]uint8{2}, m.DeliveryMode) {
		t.Errorf("the broker has %v %v, %v", m.Headers, string(m.Body), err)
	}
}
