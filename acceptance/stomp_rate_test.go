package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
)

// BenchmarkSTOMPRelay compares, over quorum queues that nobody consumes, a raw loop with
// 500 receipts outstanding, a relay from PostgreSQL with as many, and one with the default
// settings, one after the other in each operation: 10,000 keys, payload 250 bytes, the same
// frames. It reports medians.
func BenchmarkSTOMPRelay(b *testing.B) {
	messages := intEnv("STOMP_MESSAGES", 60_000)
	pool := openPool(b, testenv.Postgres(b).URL(), 20)
	s := postgresStore(b, pool)
	ob := outbox.New(s)
	server := testenv.RabbitMQ(b)
	queue := func() string {
		address := server.STOMPURL(server.NewVHost(b))
		startWorker(b, stompSubscriber(b, address, nil), "drain", "#").stop()
		return address
	}
	relayed := func(config relay.Config) float64 {
		backlog(b, ob, messages, 10_000)
		config.Logger = quiet()
		return relayRate(b, relay.New(s, stompPublisher(b, queue(), nil), &config), messages)
	}
	rates := map[string][]float64{}
	note := func(what string, value float64) float64 {
		rates[what] = append(rates[what], value)
		return value
	}
	for b.Loop() {
		raw := note("raw/s", rawRate(b, queue(), messages))
		note("window-500/raw", note("window-500/s", relayed(relay.Config{Window: 500}))/raw)
		note("default/raw", note("default/s", relayed(relay.Config{}))/raw)
	}
	for what, values := range rates {
		slices.Sort(values)
		b.ReportMetric(values[len(values)/2], what)
	}
}

func relayRate(b *testing.B, r *relay.Relay, messages int) float64 {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	began := time.Now()
	go func() { ended <- r.Run(ctx) }()
	for r.Stats().Confirmed < int64(messages) {
		time.Sleep(time.Millisecond)
	}
	rate := float64(messages) / time.Since(began).Seconds()
	cancel()
	must(b, <-ended)
	return rate
}

// rawRate sends frames as the publisher does, and counts the receipts by the NULs that
// end them.
func rawRate(b *testing.B, address string, messages int) float64 {
	b.Helper()
	u, err := url.Parse(address)
	must(b, err)
	conn, err := net.Dial("tcp", u.Host)
	must(b, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "CONNECT\naccept-version:1.2\nhost:%s\nlogin:guest\npasscode:guest\n\n\x00", strings.TrimPrefix(u.Path, "/"))
	must(b, err)
	in := make([]byte, 64<<10)
	receipts := func() int {
		n, err := conn.Read(in)
		must(b, err)
		return bytes.Count(in[:n], []byte{0})
	}
	if receipts() != 1 {
		b.Fatal("the broker does not answer CONNECT")
	}
	const window = 500
	payload := make([]byte, 250)
	var out bytes.Buffer
	began := time.Now()
	for sent, answered := 0, 0; answered < messages; answered += receipts() {
		for ; sent < messages && sent-answered < window; sent++ {
			fmt.Fprintf(&out, "SEND\ndestination:/topic/drain\nreceipt:%d\npersistent:true\namqp-message-id:018f3f2c-7d52-7c11-9c5a-%012d\n"+
				"content-type:application/octet-stream\noutbox-topic:drain\noutbox-key:%d\noutbox-created-at:2026-11-21T23\\c06\\c47.375123Z\n"+
				"content-length:%d\n\n%s\x00", sent, sent, sent%10_000, len(payload), payload)
		}
		_, err := conn.Write(out.Bytes())
		must(b, err)
		out.Reset()
	}
	return float64(messages) / time.Since(began).Seconds()
}
