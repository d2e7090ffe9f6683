package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/cmd/outbox/internal/bench"
	"github.com/outbox-go/outbox/internal/measure"
	"github.com/outbox-go/outbox/internal/testenv"
)

// benchResult decodes what a benchmark printed, and fails the test unless that many
// messages were delivered as they ought to be.
func benchResult(t *testing.T, out string, messages int) map[string]any {
	t.Helper()
	var result map[string]any
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := map[string]int{"committed": messages, "delivered": messages, "duplicates": 0, "lost": 0, "phantom": 0, "out_of_order": 0}
	for key, n := range want {
		if result[key] != float64(n) {
			t.Errorf("%s is %v, want %d: %s", key, result[key], n, out)
		}
	}
	if rate, _ := result["messages_per_second"].(float64); rate <= 0 {
		t.Errorf("no rate: %s", out)
	}
	return result
}

// wantKeys compares the keys of an object with those that its readers know.
func wantKeys(t *testing.T, what string, object any, keys string) {
	t.Helper()
	got, _ := object.(map[string]any)
	if text := strings.Join(slices.Sorted(maps.Keys(got)), " "); text != keys {
		t.Errorf("keys of %s: %s, want %s", what, text, keys)
	}
}

const (
	machineKeys = "arch cores cpu go memory_bytes os"
	trafficKeys = "benchmark committed conditions cpu_seconds delivered duplicates lost messages_per_second out_of_order peak_rss_bytes " +
		"phantom rolled_back seconds settings tenths"
)

func TestBenchDrainCommand(t *testing.T) {
	t.Parallel()
	args := []string{"bench", "drain", "--messages", "2000", "--keys", "50", "--relays", "2"}
	got := call(t, nil, "", append(args, "--json")...)
	got.want(t, 0)
	result := benchResult(t, got.stdout, 2000)
	wantKeys(t, "the result", result, trafficKeys)
	conditions, _ := result["conditions"].(map[string]any)
	wantKeys(t, "the conditions", conditions, "broker database machine program")
	wantKeys(t, "the machine", conditions["machine"], machineKeys)
	settings, _ := result["settings"].(map[string]any)
	wantKeys(t, "the settings", settings, "connections consumer keys messages order payload_bytes prefetch relays window")
	if result["rolled_back"] != 200.0 || settings["order"] != "strict" || settings["relays"] != 2.0 || len(result["tenths"].([]any)) != 10 {
		t.Errorf("got %s", got.stdout)
	}
	call(t, nil, "", args...).want(t, 0, "drain: 2,000 messages of 250 bytes, 50 keys, strict order, relays: 2, window 1000", "on SQLite", "on JetStream",
		"throughput", "out of order", "by tenths: ", "cores")
}

func TestBenchDrainWithoutAConsumerIsJudgedAfterwards(t *testing.T) {
	t.Parallel()
	got := call(t, nil, "", "bench", "drain", "--messages", "500", "--keys", "0", "--payload", "8", "--order", "pipelined", "--window", "10", "--no-consumer", "--json")
	got.want(t, 0)
	result := benchResult(t, got.stdout, 500)
	if _, ok := result["tenths"]; ok {
		t.Error("there are rates of tenths of what nobody consumed")
	}
	settings := result["settings"].(map[string]any)
	if settings["consumer"] != false || settings["order"] != "pipelined" || settings["window"] != 10.0 || settings["keys"] != 0.0 {
		t.Errorf("got %v", settings)
	}
}

func TestBenchLimitCommand(t *testing.T) {
	t.Parallel()
	got := call(t, nil, "", "bench", "limit", "--messages", "2000", "--json")
	got.want(t, 0)
	result := benchResult(t, got.stdout, 2000)
	wantKeys(t, "the result", result, trafficKeys)
	wantKeys(t, "the conditions", result["conditions"], "broker machine program")
	wantKeys(t, "the settings", result["settings"], "connections consumer keys messages payload_bytes prefetch window")
	call(t, nil, "", "bench", "limit", "--messages", "200", "--no-consumer", "--broker-url", testenv.RabbitMQ(t).NewVHost(t), "--queue-type", "classic").
		want(t, 0, "limit: 200 messages", "on RabbitMQ 3.", "classic queue, no consumer")
}

// TestBenchDrainOfRealServers runs all that is PostgreSQL's and RabbitMQ's, with relays
// in processes of their own, and looks for what remains of it.
func TestBenchDrainOfRealServers(t *testing.T) {
	t.Parallel()
	pg, mq := testenv.Postgres(t), testenv.RabbitMQ(t)
	database, broker := pg.NewDatabase(t), mq.NewVHost(t)
	program, temporary := binary(t), t.TempDir()
	run := func(args ...string) map[string]any {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"bench", "drain", "--messages", "3000", "--json",
			"--database-url", database, "--broker-url", broker}, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+temporary, "OUTBOX_RELAY_WINDOW=none", "OUTBOX_DATABASE_URL=x:")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 {
			t.Fatalf("%v\n%s\n%s", err, out, &stderr)
		}
		return benchResult(t, string(out), 3000)
	}
	result := run("--relay-process", "--relays", "2", "--hold-snapshot", "--idle-outboxes", "3", "--window", "100")
	wantKeys(t, "the result", result, strings.Replace(trafficKeys, "rolled_back", "relay_cpu_seconds relay_peak_rss_bytes rolled_back", 1))
	wantKeys(t, "the settings", result["settings"],
		"connections consumer hold_snapshot idle_outboxes keys messages order payload_bytes prefetch queue_type relay_process relays window")
	if rss, _ := result["relay_peak_rss_bytes"].(float64); rss < 1<<20 {
		t.Errorf("the relays' process has %v bytes", rss)
	}
	folder := filepath.Join(t.TempDir(), "profile")
	run("--no-consumer", "--order", "pipelined", "--profile", folder)
	for _, name := range []string{"cpu.pprof", "heap.pprof", "allocs.pprof"} {
		if info, err := os.Stat(filepath.Join(folder, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left := pg.Exec(database, `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'outbox%'`); len(left) > 0 {
		t.Errorf("schemas left behind: %v", left)
	}
	wantNothingAtBroker(t, mq, broker)
}

// wantNothingAtBroker fails the test if a benchmark has left a queue or an exchange.
func wantNothingAtBroker(t *testing.T, mq *testenv.RabbitMQServer, broker string) {
	t.Helper()
	u, err := url.Parse(broker)
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"amqqueue", "exchange"} {
		left := mq.Eval(fmt.Sprintf(`[element(4, element(2, X)) || X <- rabbit_%s:list(<<"%s">>), binary:match(element(4, element(2, X)), <<"bench">>) =/= nomatch].`,
			module, strings.TrimPrefix(u.Path, "/")))
		if left != "[]" {
			t.Errorf("%s left behind: %s", module, left)
		}
	}
}

func TestBenchTellsWhatIsKnownWhenTheTimeIsOver(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "bench", "drain", "--messages", "5000000", "--timeout", "500ms", "--json").
		want(t, exitFailure, "emit the backlog: the time is over", `"delivered":0`)
	call(t, nil, "", "bench", "limit", "--messages", "1000000", "--timeout", "500ms", "--json").want(t, exitFailure, "the time is over", `"benchmark":"limit"`)
}

func TestBenchReportsAllBadFlags(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "bench", "drain", "--messages", "0", "--keys", "-1", "--payload", "7", "--prefetch", "0", "--timeout", "-1s", "--relays", "0",
		"--idle-outboxes", "-1", "--order", "fifo", "--window", "0", "--queue-type", "lifo", "--database-url", "mysql://h/d", "--broker-url", "stdout:").
		want(t, exitUsage, "12 problems", "--messages", "--keys", "--payload", "--prefetch", "--timeout", "--relays", "--idle-outboxes", `--order "fifo"`,
			"relay.window", "broker.queue_type", "database.url", "broker.url")
	call(t, nil, "", "bench", "drain", "--hold-snapshot", "--idle-outboxes", "1", "--no-consumer", "--relay-process", "--queue-type", "classic").
		want(t, exitUsage, "4 problems", "--hold-snapshot: is of PostgreSQL", "--idle-outboxes: are schemas of PostgreSQL", "--no-consumer", "is of RabbitMQ")
	call(t, nil, "", "bench", "limit", "--messages", "0", "--payload", "2000000", "--broker-url", "nats://localhost", "--queue-type", "quorum").
		want(t, exitUsage, "3 problems", "--messages", "--payload", "is of RabbitMQ: leave it out")
}

func TestBenchHelp(t *testing.T) {
	t.Parallel()
	call(t, nil, "", "bench", "--help").want(t, 0, "drain ", "emit ", "limit ", "steady ")
	help := call(t, nil, "", "bench", "drain", "--help")
	help.want(t, 0, "(default 100000)", "(default 10000)", "--queue-type", "--window", "(default 2000)", "Examples:", "(default warn)")
	for _, flag := range []string{"--relay-route", "--relay-name", "--relay-window", "--relay-pipelined", "--broker-exchange"} {
		if strings.Contains(help.stdout, flag) {
			t.Errorf("drain shows %s", flag)
		}
	}
}

func TestBenchFailsIfThePromiseIsNotKept(t *testing.T) {
	t.Parallel()
	for _, asJSON := range []bool{true, false} {
		f := trafficFlags{json: asJSON}
		report := func(v measure.Verdict, err error) error {
			var out bytes.Buffer
			err = f.report(&out, &bench.Result{Verdict: v}, err)
			if out.Len() == 0 {
				t.Errorf("nothing is said of %+v", v)
			}
			return err
		}
		if err := report(measure.Verdict{Committed: 1, Duplicates: 1}, nil); err != nil {
			t.Errorf("a duplicate is no failure: %v", err)
		}
		for _, bad := range []measure.Verdict{{Lost: 1}, {Phantom: 1}, {OutOfOrder: 1}} {
			if err := report(bad, nil); err == nil {
				t.Errorf("%+v is no error", bad)
			}
		}
		reason := errors.New("interrupted")
		if err := report(measure.Verdict{Lost: 1}, reason); err.Error() != reason.Error() {
			t.Errorf("got %v, want only that it was interrupted", err)
		}
		if err := report(measure.Verdict{OutOfOrder: 1}, reason); !errors.Is(err, reason) || err.Error() == reason.Error() {
			t.Errorf("got %v, want what is wrong, too", err)
		}
	}
}

// Variables of the other commands are not read: one would measure what they are for.
func TestBenchReadsURLsFromVariablesOfItsOwn(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"OUTBOX_DATABASE_URL": "x:", "OUTBOX_BENCH_DATABASE_URL": "mysql://h/d", "OUTBOX_BENCH_BROKER_URL": "stdout:", "OUTBOX_BENCH_LOG_LEVEL": "x",
	}
	for _, benchmark := range []string{"drain", "steady"} {
		call(t, env, "", "bench", benchmark).want(t, exitUsage, "2 problems", "variable OUTBOX_BENCH_DATABASE_URL", "variable OUTBOX_BENCH_BROKER_URL")
		call(t, env, "", "bench", benchmark, "--database-url", "sqlite:x.db", "--broker-url", "tcp://h").want(t, exitUsage, "flag --broker-url")
	}
	call(t, env, "", "bench", "emit").want(t, exitUsage, "variable OUTBOX_BENCH_DATABASE_URL")
	call(t, env, "", "bench", "limit").want(t, exitUsage, "variable OUTBOX_BENCH_BROKER_URL")
}

func TestOnlyOneHostOfRabbitMQ(t *testing.T) {
	t.Parallel()
	for _, command := range [][]string{{"bench", "drain"}, {"bench", "limit"}, {"bench", "steady"}, {"demo"}} {
		call(t, nil, "", append(command, "--broker-url", "amqp://a,b:c@h:5672,i:5672/v")...).want(t, exitUsage, "has several hosts: name one of them here")
	}
}
