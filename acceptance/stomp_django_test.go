package acceptance

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/stomp"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/worker"
)

// What django-outbox-pattern 3.0.6 writes, as it was recorded between it and RabbitMQ:
// its publish command, and its subscribe command with the queue "shared". HOST stands
// for the virtual host.
const (
	djangoConnect = "STOMP\naccept-version:1.2\nheart-beat:10000,10000\nhost:HOST\nlogin:guest\npasscode:guest\n\n\x00"
	djangoSend    = "SEND\ncontent-length:32\ndestination:/topic/user.created.v1\n" +
		"dop-correlation-id:2b338619-9801-43d4-b074-4c98538a52f8\ndop-msg-destination:/topic/user.created.v1\n" +
		"dop-msg-id:" + djangoID + "\ndop-msg-sent-time:2026-11-21T23\\c06\\c47.375Z\ndop-msg-type:Published\n" +
		"x-own:a\\cb\\\\c\n\n" + djangoBody + "\x00"
	djangoSubscribe = "SUBSCRIBE\nack:client\nauto-delete:false\ndestination:DLQ.shared\ndurable:true\nexclusive:False\n" +
		"id:4bd88528\nprefetch-count:1\nx-dead-letter-exchange:\nx-dead-letter-routing-key:DLQ.DLQ.DLQ.shared\nx-queue-name:DLQ.shared\n\n\x00" +
		"UNSUBSCRIBE\nid:4bd88528\n\n\x00" +
		"SUBSCRIBE\nack:client\nauto-delete:false\ndestination:/topic/user.created.v1\ndurable:true\nexclusive:False\n" +
		"id:a5a21e5f\nprefetch-count:1\nx-dead-letter-exchange:\nx-dead-letter-routing-key:DLQ.shared\nx-queue-name:shared\n\n\x00"
	djangoAck  = "ACK\nid:%s\n\n\x00"
	djangoNack = "NACK\nid:%s\nrequeue:False\n\n\x00"
	// Not its own: what it has sent before was processed when the answer comes.
	djangoFence = "BEGIN\ntransaction:fence\nreceipt:fence\n\n\x00"

	djangoID   = "ae7f86f5-d60a-4bed-9d46-9dee5bedfed2"
	djangoBody = `{"id": 7, "name": "J\u00fcrgen"}`
)

// django is a connection that speaks as django-outbox-pattern does.
type django struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func connectDjango(t *testing.T, address string) *django {
	t.Helper()
	u, err := url.Parse(address)
	must(t, err)
	conn, err := net.Dial("tcp", u.Host)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	d := &django{t, conn, bufio.NewReader(conn)}
	d.write(strings.Replace(djangoConnect, "HOST", strings.TrimPrefix(u.Path, "/"), 1))
	d.read("CONNECTED")
	return d
}

func (d *django) write(frames string) {
	d.t.Helper()
	_, err := d.conn.Write([]byte(frames))
	must(d.t, err)
}

// read returns the next frame, which must be of that command, with its headers' escapes.
func (d *django) read(command string) (headers map[string]string, body string) {
	d.t.Helper()
	text, err := d.in.ReadString(0)
	must(d.t, err)
	head, body, _ := strings.Cut(strings.TrimLeft(strings.TrimSuffix(text, "\x00"), "\n"), "\n\n")
	lines := strings.Split(head, "\n")
	if lines[0] != command {
		d.t.Fatalf("the broker sends %q, want %s", text, command)
	}
	headers = map[string]string{}
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ":")
		headers[name] = value
	}
	return headers, body
}

// subscribe joins the queue "shared".
func (d *django) subscribe() {
	d.t.Helper()
	d.write(djangoSubscribe + djangoFence)
	d.read("RECEIPT")
}

// TestDjangoServiceSharesAQueue: django-outbox-pattern and this project publish to each
// other, and share a queue and its dead letters, whoever of the two comes first.
func TestDjangoServiceSharesAQueue(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"Django", "Go"} {
		t.Run(first+" first", func(t *testing.T) {
			t.Parallel()
			shareQueue(t, first == "Django")
		})
	}
}

func shareQueue(t *testing.T, djangoFirst bool) {
	b := newSTOMPRabbit(t, false)
	s := newSystem(newPostgres(t), b)
	config := &stomp.SubscriberConfig{Connection: stompConnection, DOP: true}
	start := func() *recorder {
		return startWorker(t, stompSubscriber(t, s.address, config), "shared", "user.created.v1")
	}
	their := connectDjango(t, s.address)
	var ours *recorder
	if djangoFirst {
		their.subscribe()
		ours = start()
	} else {
		ours = start()
		their.subscribe()
	}

	// Theirs comes to one of the two, alternately.
	their.write(djangoSend + djangoSend)
	headers, body := their.read("MESSAGE")
	if body != djangoBody || headers["dop-msg-id"] != djangoID {
		t.Errorf("Django gets %v with %q", headers, body)
	}
	their.write(fmt.Sprintf(djangoAck, headers["ack"]))
	d := ours.await(1)[0]
	want := time.Date(2026, 11, 21, 23, 6, 47, 375e6, time.UTC)
	if d.ID != djangoID || d.Topic != "user.created.v1" || d.Type != "Published" || string(d.Payload) != djangoBody || !d.CreatedAt.Equal(want) ||
		d.CorrelationID != "2b338619-9801-43d4-b074-4c98538a52f8" || d.Headers["x-own"] != `a:b\c` {
		t.Errorf("Go gets %+v with %q", d.Metadata, d.Payload)
	}
	ours.stop()

	// Ours comes to them, who reject it: then it is in the dead letters that we read.
	p := stompPublisher(t, s.address, &stomp.PublisherConfig{Connection: stompConnection, DOP: true})
	s.startRelayWith(t, p, relay.Config{})
	const id = "018f3f2c-7d52-7c11-9c5a-000000000001"
	s.emit(t, outbox.Event{ID: id, Topic: "user.created.v1", Payload: map[string]int{"id": 1}, Headers: map[string]string{"correlation-id": "c"}})
	headers, body = their.read("MESSAGE")
	if headers["dop-msg-id"] != id || headers["dop-msg-destination"] != "/topic/user.created.v1" || headers["dop-msg-type"] != "Published" ||
		headers["dop-correlation-id"] != "c" || headers["dop-msg-sent-time"] == "" || body != `{"id":1}` {
		t.Errorf("Django gets %v with %q", headers, body)
	}
	their.write(fmt.Sprintf(djangoNack, headers["ack"]))
	dead := newRecorder(t)
	w := worker.New(stompSubscriber(t, s.address, config), &worker.Config{Queue: "shared", DeadLetters: true, Logger: quiet()})
	worker.Handle(w, "#", dead.handle)
	runWorker(t, w)
	letter := dead.await(1)[0]
	if letter.ID != id || letter.Topic != "user.created.v1" || letter.Failure == nil || !strings.Contains(letter.Failure.Reason, "rejected") {
		t.Errorf("the dead letter is %+v with %+v", letter.Metadata, letter.Failure)
	}
}

// TestD12_SameIDTwiceOverSTOMP: the inbox knows a message of django-outbox-pattern by
// its own id, and the broker's acknowledgement comes both times.
func TestD12_SameIDTwiceOverSTOMP(t *testing.T) {
	t.Parallel()
	b := newSTOMPRabbit(t, false)
	s := newSystem(newPostgres(t), b)
	handled := make(chan string, 10)
	w := worker.New(stompSubscriber(t, s.address, &stomp.SubscriberConfig{DOP: true}), &worker.Config{Queue: "shared", Logger: quiet()})
	s.handleTx(w, "user.created.v1", func(_ context.Context, _ transaction, d *worker.Delivery[order]) error {
		handled <- d.ID
		return nil
	})
	worker.Handle(w, "end", func(_ context.Context, d *worker.Delivery[[]byte]) error {
		handled <- d.ID
		return nil
	})
	stop := runWorker(t, w)
	their := connectDjango(t, s.address)
	frame := strings.Replace(djangoSend, djangoBody, fmt.Sprintf("%-*s", len(djangoBody), `{"ID": "7"}`), 1)
	their.write(frame + frame + djangoFence)
	their.read("RECEIPT")
	s.send(t, outbox.Message{ID: "last", Topic: "end"})
	seen := map[string]int{}
	for len(seen) < 2 {
		select {
		case id := <-handled:
			seen[id]++
		case <-time.After(patience):
			t.Fatalf("handled is %v", seen)
		}
	}
	stop() // what was not acknowledged is in the queue again
	if len(handled) > 0 || seen[djangoID] != 1 {
		t.Errorf("handled is %v, and %d more", seen, len(handled))
	}
	if n := queueLength(t, b.address, "shared"); n != 0 {
		t.Errorf("%d messages are in the queue", n)
	}
}
