package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// inside is the program at work inside the test.
type inside struct {
	t      *testing.T
	stop   func() // as by a signal, and waits
	mu     sync.Mutex
	stdout bytes.Buffer
	stderr bytes.Buffer
	code   int
}

// locked is one of the outputs.
type locked struct {
	p *inside
	b *bytes.Buffer
}

func (l locked) Write(b []byte) (int, error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	return l.b.Write(b)
}

func start(t *testing.T, env map[string]string, args ...string) *inside {
	t.Helper()
	p := &inside{t: t, code: -1}
	a := &app{stdin: strings.NewReader(""), stdout: locked{p, &p.stdout}, stderr: locked{p, &p.stderr}, env: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}}
	ctx, cancel := context.WithCancelCause(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		code := a.run(ctx, args)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.code = code
	}()
	p.stop = func() {
		cancel(errors.New("the test has ended"))
		<-ended
	}
	t.Cleanup(p.stop)
	return p
}

// said returns what was written, and the exit code, -1 while it runs.
func (p *inside) said() answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return answer{p.code, p.stdout.String(), p.stderr.String()}
}

// awaitLines waits until there are n lines on standard output.
func (p *inside) awaitLines(n int) []map[string]any {
	p.t.Helper()
	await(p.t, fmt.Sprint(n, " lines"), func() bool {
		said := p.said()
		if said.code >= 0 {
			said.want(p.t, -1)
		}
		return strings.Count(said.stdout, "\n") >= n
	})
	return lines(p.t, p.said().stdout)
}

var address = regexp.MustCompile(`answering HTTP" address=(\S+)`)

// get asks the program's HTTP server.
func (p *inside) get(path string) (int, string) {
	p.t.Helper()
	await(p.t, "the address", func() bool { return address.MatchString(p.said().stderr) })
	answer, err := http.Get("http://" + address.FindStringSubmatch(p.said().stderr)[1] + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func yamlFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outbox.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBrokenRouteDoesNotHoldUpTheOthers(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		d.env["OUTBOX_CONFIG"] = yamlFile(t, `
relay: {poll_interval: 50ms, listen: 127.0.0.1:0, rename: [both=renamed]}
routes:
  good: {topics: [good.#, both]}
  bad: {topics: [bad.#, both], broker_url: '`+closedPort(t)+`'}
  urgent: {headers: {class: urgent}, tenants: [acme]}
`)
		for i := range 5 {
			d.emit("--topic", "good."+fmt.Sprint(i), "--key", "k")
			d.emit("--topic", "bad."+fmt.Sprint(i), "--key", "k")
		}
		d.emit("--topic", "both")
		d.emit("--topic", "good.9", "--tenant", "acme", "--header", "class=urgent")
		lost := d.emit("--topic", "nowhere", "--header", "class=urgent")
		p := start(t, d.env, "relay")
		seen := map[string]int{}
		last := ""
		for _, line := range p.awaitLines(8) {
			topic := line["topic"].(string)
			if seen[topic]++; line["key"] == "k" {
				if topic < last {
					t.Errorf("%s came after %s", topic, last)
				}
				last = topic
			}
		}
		if len(seen) != 7 || seen["renamed"] != 1 || seen["good.9"] != 2 {
			t.Errorf("sent %v, want good.0 to good.4 and what was renamed once, good.9 twice", seen)
		}
		await(t, "what no route takes to be dead", func() bool { return d.call("dead", "show", lost).code == 0 })
		d.call("dead", "list").want(t, 0, lost, "unrouted")
		await(t, "the reason why it is not ready", func() bool {
			code, text := p.get("/readyz")
			return code == 503 && strings.Contains(text, "route bad: ") && !strings.Contains(text, "route good")
		})
		var metrics string
		await(t, "the dispatching to be counted", func() bool {
			_, metrics = p.get("/metrics")
			return regexp.MustCompile(`\noutbox_dispatched_total\{outbox="\w*",route=""} 12\n`).MatchString(metrics)
		})
		if regexp.MustCompile(`\noutbox_(published_total|broker_up)\{outbox="\w*",route=""}`).MatchString(metrics) {
			t.Errorf("the dispatching counts as sending:\n%s", metrics)
		}
		p.stop()
		p.said().want(t, 0, "confirmed=8 settled=8")
		left := lines(t, d.call("messages", "list", "--json").stdout)
		if len(left) != 6 {
			t.Errorf("%d messages are left, want 6: %v", len(left), left)
		}
		for _, m := range left {
			if m["route"] != "bad" || m["attempts"] != 0.0 {
				t.Errorf("left is %v", m)
			}
		}
	})
}

func TestOneRouteCanRunByItself(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.env["OUTBOX_CONFIG"] = yamlFile(t, "routes:\n  a: {topics: [a]}\n  b: {topics: [b]}\n")
	d.emit("--topic", "b", "--route", "b")
	d.emit("--topic", "a", "--route", "a")
	d.emit("--topic", "a")
	if sent := lines(t, d.call("relay", "--once", "--relay-route", "a").stdout); len(sent) != 1 || sent[0]["topic"] != "a" {
		t.Errorf("sent %v", sent)
	}
	d.call("relay", "--once").want(t, exitUsage, "--once: drains one route: name it by relay.route")
	d.call("relay", "--relay-route", "c").want(t, exitUsage, `relay.route "c" (flag --relay-route): is none of the routes`)
	if left := lines(t, d.call("messages", "list", "--json").stdout); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

// TestRouteHasRatesOfItsOwn: in the place of those of all relays, which would let one
// message through.
func TestRouteHasRatesOfItsOwn(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.env["OUTBOX_CONFIG"] = yamlFile(t, `
relay: {rates: ['#=4/h']}
routes:
  fast: {topics: [a], rates: ['a=1000/s']}
`)
	for range 5 {
		d.emit("--topic", "a")
	}
	start(t, d.env, "relay").awaitLines(5)
}

func TestRoutesAreCheckedBeforeAnythingConnects(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	delete(d.env, "OUTBOX_BROKER_URL")
	d.env["OUTBOX_CONFIG"] = yamlFile(t, `routes:
  a: {topics: a, broker_url: 'mysql://u:geheim@h/'}
  b: {topics: b, broker_url: nats://h, stream: a.b}
  c: {topics: c}
  d: {topics: d, broker_url: amqp://h, exchange: amq.direct}
`)
	got := d.call("relay")
	got.want(t, exitUsage, "4 problems", `routes.a.broker_url "mysql://u:xxxxx@h/"`, "unknown scheme mysql", "outbox.yaml:2)", `routes.b.stream "a.b"`, "outbox.yaml:3)",
		"broker.url: is not set", `routes.d.exchange "amq.direct"`)
	if strings.Contains(got.stderr, "geheim") {
		t.Errorf("a password is shown: %s", got.stderr)
	}
	// Who names a broker for each route needs no other.
	d.env["OUTBOX_CONFIG"] = yamlFile(t, "routes:\n  a: {topics: '#', broker_url: stdout:}\n")
	d.emit("--topic", "x", "--route", "a")
	d.call("relay", "--once", "--relay-route", "a").want(t, 0, `"topic":"x"`)
}

func TestSeveralOutboxesInOneDatabase(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		sqlite := strings.HasPrefix(d.env["OUTBOX_DATABASE_URL"], "sqlite")
		flags := [][]string{{"--database-schema", "shop"}, {"--database-schema", "billing", "--database-table-prefix", "ob_"}}
		names := "shop,billing/ob_"
		if sqlite {
			flags = [][]string{{"--database-table-prefix", "shop_"}, {"--database-table-prefix", "billing_"}}
			names = "/shop_,/billing_"
		}
		for _, f := range flags {
			d.call(append([]string{"migrate"}, f...)...).want(t, 0)
		}
		for range 3 {
			for i, f := range flags {
				d.emit(append([]string{"--topic", fmt.Sprintf("from.%d", i)}, f...)...)
			}
		}
		d.emit("--topic", "other")
		p := start(t, d.env, "relay", "--relay-outboxes", names, "--relay-listen", "127.0.0.1:0")
		seen := map[any]int{}
		for _, line := range p.awaitLines(6) {
			seen[line["topic"]]++
		}
		if seen["from.0"] != 3 || seen["from.1"] != 3 {
			t.Errorf("sent %v", seen)
		}
		for _, f := range flags {
			await(t, "an empty outbox", func() bool {
				return len(lines(t, d.call(append([]string{"messages", "list", "--json"}, f...)...).stdout)) == 0
			})
		}
		for name := range strings.SplitSeq(names, ",") {
			await(t, "the metrics of "+name, func() bool {
				_, text := p.get("/metrics")
				return strings.Contains(text, `outbox_published_total{outbox="`+name+`",route=""} 3`) &&
					strings.Contains(text, `outbox_pending_messages{outbox="`+name+`",route=""} `)
			})
		}
		p.stop()
		p.said().want(t, 0)
		if left := lines(t, d.call("messages", "list", "--json").stdout); len(left) != 1 {
			t.Errorf("%v is left in the outbox that was not named", left)
		}
		if sqlite {
			d.call("relay", "--relay-outboxes", "shop,/x,/x").want(t, exitUsage, "SQLite has none: write /shop", `"/x" twice`)
		}
	})
}

// TestCommandsOfSeveralOutboxes: they are of all of them, or of one that is named, and
// of no other by mistake.
func TestCommandsOfSeveralOutboxes(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		first, second, one := "shop/x_", "billing/x_", []string{"--database-schema", "shop", "--database-table-prefix", "x_"}
		printed := []string{`"shop"`, `"billing"`}
		if strings.HasPrefix(d.env["OUTBOX_DATABASE_URL"], "sqlite") {
			first, second, one = "/x_", "/y_", one[2:]
			printed = []string{"x_message", "y_message"}
		}
		d.env["OUTBOX_CONFIG"] = yamlFile(t, "relay: {outboxes: ["+first+", "+second+"]}\n")
		for _, args := range []string{"emit --topic a --data 1", "dead list", "dead discard --all", "messages list", "messages retry --all", "pause --all", "resume --all", "purge --older-than 1d"} {
			d.call(strings.Fields(args)...).want(t, exitUsage, "relay.outboxes", "is set, and this command is for one outbox: name it by --database-schema")
		}
		d.call("migrate", "--print").want(t, 0, printed...)
		d.call("stats").want(t, exitFailure, "outbox "+first+": ")
		d.call("migrate").want(t, 0, "outbox "+first, "outbox "+second)
		d.emit(append([]string{"--topic", "a"}, one...)...)
		stats := lines(t, d.call("stats", "--json").stdout)
		if len(stats) != 2 || stats[0]["outbox"] != first || stats[0]["pending"] != 1.0 || stats[1]["outbox"] != second || stats[1]["pending"] != 0.0 {
			t.Errorf("got %v", stats)
		}
		d.call("stats").want(t, 0, "outbox "+first+"\n", "outbox "+second+"\n")
		if stats := lines(t, d.call(append([]string{"stats", "--json"}, one...)...).stdout); len(stats) != 1 || stats[0]["outbox"] != first {
			t.Errorf("of the one that is named: %v", stats)
		}
		d.call(append([]string{"messages", "list"}, one...)...).want(t, 0, "TOPIC")
	})
}

func TestOutboxThatCannotRunEndsTheOthers(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.env["OUTBOX_RELAY_OUTBOXES"] = "/outbox_x_,/missing_"
	d.call("migrate", "--database-table-prefix", "outbox_x_").want(t, 0)
	d.call("relay").want(t, exitFailure, "outbox /missing_: ", "is missing")
}

func TestRelayAnswersHTTP(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.env["OUTBOX_RELAY_LISTEN"] = "127.0.0.1:0"
	p := start(t, d.env, "relay")
	if code, text := p.get("/healthz"); code != 200 || text != "ok\n" {
		t.Errorf("/healthz: %d %q", code, text)
	}
	await(t, "readiness", func() bool { code, _ := p.get("/readyz"); return code == 200 })
	d.emit("--topic", "a")
	p.awaitLines(1)
	for _, want := range []string{
		`outbox_published_total{outbox="",route=""} 1`, `outbox_relays{outbox="",route=""} 1`, `outbox_count_errors_total{outbox=""} 0`,
		`outbox_relay_ready{outbox="",route=""} 1`, "go_goroutines ", "process_start_time_seconds ",
	} {
		await(t, want, func() bool { _, text := p.get("/metrics"); return strings.Contains(text, "\n"+want) })
	}
	busy := d.call("relay", "--relay-listen", address.FindStringSubmatch(p.said().stderr)[1])
	busy.want(t, exitFailure, "listen at relay.listen", "address already in use")
	begun := time.Now()
	p.stop()
	p.said().want(t, 0)
	if took := time.Since(begun); took > patience/2 {
		t.Errorf("it took %v to stop", took)
	}
}

func TestRelayIsNotReadyWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	d.env["OUTBOX_BROKER_URL"], d.env["OUTBOX_RELAY_LISTEN"] = closedPort(t), "127.0.0.1:0"
	p := start(t, d.env, "relay")
	d.emit("--topic", "a")
	await(t, "the reason", func() bool { code, text := p.get("/readyz"); return code == 503 && strings.Contains(text, "broker") })
	if code, _ := p.get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d, want 200: to start it again would not help", code)
	}
	await(t, "the metric", func() bool {
		_, text := p.get("/metrics")
		return strings.Contains(text, "\n"+`outbox_broker_up{outbox="",route=""} 0`)
	})
}
