package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/internal/testenv"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[2] == work.ChildCommand { // the relay of a test's run
		main()
		return
	}
	testenv.Main(m)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// peerRun runs the program and returns its result.
func peerRun(t *testing.T, args ...string) report {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), args, &stdout, &stderr); err != nil {
		t.Fatalf("peer %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var r report
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &r))
	return r
}

func TestSystemsDeliverAllMessages(t *testing.T) {
	t.Parallel()
	tests := []struct {
		system, work string
		flags        []string
		messages     int
		ordered      bool
	}{
		{"river", drain, []string{"--messages", "2000"}, 2000, false},
		{"river", steady, []string{"--relay", "process"}, 300, false},
		{"river", steady, []string{"--queue-type", "classic"}, 300, false},
		{"watermill", drain, []string{"--messages", "500", "--hold-snapshot"}, 500, true},
		{"watermill", drain, []string{"--messages", "500", "--topics", "3"}, 500, true},
		{"watermill", steady, []string{"--relay", "process", "--topics", "3"}, 300, true},
		{"notify", steady, nil, 300, true},
	}
	database := testenv.Postgres(t).NewDatabase(t)
	broker := testenv.RabbitMQ(t).NewVHost(t)
	// One after the other on the same servers, so that each finds what the one before left.
	for _, test := range tests {
		t.Run(test.system+" "+test.work+" "+strings.Join(test.flags, " "), func(t *testing.T) {
			args := []string{test.system, test.work, "--database-url", database, "--broker-url", broker, "--keys", "40", "--timeout", "1m"}
			if test.work == steady {
				args = append(args, "--rate", "300", "--duration", "500ms", "--warm-up", "500ms")
			}
			r := peerRun(t, append(args, test.flags...)...)
			if r.Delivered != test.messages || r.Committed != test.messages || r.Lost != 0 || r.Phantom != 0 {
				t.Errorf("of %d messages %+v", test.messages, r.Verdict)
			}
			if test.ordered && (r.OutOfOrder > 0 || r.Duplicates > 0) {
				t.Errorf("order or number is wrong: %+v", r.Verdict)
			}
			checkReport(t, &r, test.work)
			checkRemoved(t, database)
		})
	}
}

func checkReport(t *testing.T, r *report, work string) {
	t.Helper()
	if r.MessagesPerSecond <= 0 || r.CPUSeconds <= 0 || len(r.Tenths) != 10 || len(r.Versions) < 2 || r.Settings == nil {
		t.Errorf("incomplete: %+v", r)
	}
	if measured := r.LatencyP50 > 0 && r.LatencyP50 <= r.LatencyP99 && r.LatencyP99 <= r.LatencyMax; measured != (work == steady) {
		t.Errorf("latencies %v, %v and %v ms of a %s", r.LatencyP50, r.LatencyP99, r.LatencyMax, work)
	}
	if r.Settings.Process && r.RelayCPUSeconds <= 0 {
		t.Error("the relay's process has used no time")
	}
}

// checkRemoved fails unless all schemas of runs are gone; that of a queue is refused by
// RemoveQueue.
func checkRemoved(t *testing.T, database string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), database)
	must(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	var schemas int
	must(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'peer\_%'`).Scan(&schemas))
	if schemas != 0 {
		t.Errorf("%d schemas remain", schemas)
	}
}

func TestBareLoopPublishesToRabbitMQ(t *testing.T) {
	t.Parallel()
	broker := testenv.RabbitMQ(t).NewVHost(t)
	for _, queueType := range []string{"quorum", "classic"} {
		for _, messages := range []int{10, 1500} { // fewer than the window, and more
			r := peerRun(t, "amqp", drain, "--broker-url", broker, "--messages", fmt.Sprint(messages), "--queue-type", queueType, "--properties="+fmt.Sprint(messages > 1000))
			if r.Delivered != messages || r.MessagesPerSecond <= 0 {
				t.Errorf("%s: of %d messages %+v", queueType, messages, r.Verdict)
			}
		}
	}
}

func TestBareLoopPublishesToNATS(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	must(t, err)
	s.Start()
	t.Cleanup(s.WaitForShutdown)
	t.Cleanup(s.Shutdown)
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not come up")
	}
	for _, raw := range []string{"--raw=false", "--raw"} {
		r := peerRun(t, "nats", drain, "--broker-url", s.ClientURL(), "--messages", "3000", raw)
		if r.Delivered != 3000 || r.MessagesPerSecond <= 0 {
			t.Errorf("%s: of 3000 messages %+v", raw, r.Verdict)
		}
	}
}

func TestFaultsAreNamedAllAtOnce(t *testing.T) {
	t.Parallel()
	var discard bytes.Buffer
	err := run(t.Context(), []string{
		"river", steady, "--database-url=", "--broker-url=", "--keys=-1", "--payload=1", "--queue-type=x", "--topics=0", "--window=0", "--rate=0",
		"--duration=0", "--warm-up=-1s", "--emitters=0", "--hold=-1s", "--hold-share=2",
	}, &discard, &discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, flag := range []string{
		"--database-url", "--broker-url", "--keys", "--payload", "--queue-type", "--topics", "--window", "--rate is", "--duration is", "--warm-up", "--emitters",
		"--hold is", "--hold-share",
	} {
		if !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named by: %v", flag, err)
		}
	}
	for _, args := range [][]string{{"nothing", drain}, {"notify", drain}, {"nats", "relay"}, {"river"}} {
		if err := run(t.Context(), args, &discard, &discard); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}
