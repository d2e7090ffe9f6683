package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
)

// BenchmarkSTOMPRelay compares, over a quorum queue that nobody consumes, a raw loop
// with 500 receipts outstanding and a relay from PostgreSQL with as many, one after the
// other in each operation: 10,000 keys, payload 250 bytes, the same frames.
func BenchmarkSTOMPRelay(b *testing.B) {
	messages := intEnv("STOMP_MESSAGES", 60_000)
	pool := openPool(b, testenv.Postgres(b).URL(), 20)
	s := postgresStore(b, pool)
	ob := outbox.New(s)
	server := testenv.RabbitMQ(b)
	var raw, relayed float64
	for b.Loop() {
		b.StopTimer()
		backlog(b, ob, messages, 10_000)
		rawQueue, relayQueue := server.STOMPURL(server.NewVHost(b)), server.STOMPURL(server.NewVHost(b))
		for _, address := range []string{rawQueue, relayQueue} {
			startWorker(b, stompSubscriber(b, address, nil), "drain", "#").stop()
		}
		b.StartTimer()
		raw += rawRate(b, rawQueue, messages)
		relayed += relayRate(b, relay.New(s, stompPublisher(b, relayQueue, nil), &relay.Config{Window: 500, Logger: quiet()}), messages)
	}
	b.ReportMetric(raw/float64(b.N), "raw-messages/s")
	b.ReportMetric(relayed/float64(b.N), "relay-messages/s")
	b.ReportMetric(relayed/raw, "relay/raw")
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
