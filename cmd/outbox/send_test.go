package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/internal/testenv"
)

func TestSendGoesPastTheTable(t *testing.T) {
	t.Parallel()
	mq := testenv.RabbitMQ(t)
	url := mq.NewVHost(t)
	ch := rabbitChannel(t, url)
	for _, err := range []error{
		ch.ExchangeDeclare("outbox", "topic", true, false, false, false, nil),
		func() error { _, err := ch.QueueDeclare("q", true, false, false, false, nil); return err }(),
		ch.QueueBind("q", "user.#", "outbox", false, nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"OUTBOX_BROKER_URL": url}
	one := call(t, env, "", "send", "--topic", "user.created", "--key", "7", "--data", `{"n": 1}`)
	one.want(t, 0)
	more := call(t, env, `{"topic":"user.a","payload":1}`+"\n"+`{"topic":"user.b","payload":2}`, "send", "--lines")
	more.want(t, 0)
	ids := strings.Fields(one.stdout + more.stdout)
	var got []string
	for range 3 {
		m, ok, err := ch.Get("q", true)
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		got = append(got, m.MessageId)
	}
	if !slices.Equal(got, ids) {
		t.Errorf("the broker has %q, printed was %q", got, ids)
	}
	refused := call(t, env, `{"topic":"user.a","payload":1}`+"\n"+`{"topic":"nobody","payload":2}`, "send", "--lines")
	refused.want(t, exitFailure, "lines 2 to 2: message refused", "the lines up to 1 are sent")
	call(t, env, "", "send", "--topic", "nobody", "--data", "1").want(t, exitFailure, "send: message refused")
	call(t, env, `{"topic":"a","payload":1,"routes":["x"]}`, "send", "--lines").want(t, exitFailure, "takes no route")
	call(t, map[string]string{"OUTBOX_BROKER_URL": closedPort(t)}, "", "send", "--topic", "a", "--data", "1").want(t, exitFailure, "broker unavailable")
	call(t, nil, "", "send", "--topic", "a..b", "--data", "{").want(t, exitUsage, "3 problems", "broker.url", "--topic", "--data")
	call(t, map[string]string{"OUTBOX_BROKER_URL": "stdout:"}, "", "send", "--topic", "a", "--data", "1", "--id", "0190a5a0-0000-7000-8000-000000000001").
		want(t, 0, `"topic":"a"`, "0190a5a0-0000-7000-8000-000000000001\n")
}
