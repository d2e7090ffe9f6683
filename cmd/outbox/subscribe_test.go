package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/outboxtest"
	"github.com/outbox-go/outbox/worker"
)

func TestSubscribeReportsAllThatIsWrong(t *testing.T) {
	t.Parallel()
	ended, end := context.WithCancel(t.Context())
	end() // nothing is to run, whatever is taken for right
	const good = " --broker-url amqp://h --queue q --topic a --exec /bin/true"
	for args, want := range map[string]string{
		"": "4 problems|broker.url: is not set|subscribe.queue: is not set: give the flag --queue|subscribe.topics: is not set: give the flag --topic|--exec: is not given, and neither is --forward",
		"--broker-url stdout: --queue q --topic a --exec /bin/true":    `broker.url "stdout:" (flag --broker-url): is of what nothing can be received from`,
		"--broker-url https://h/ --queue q --topic a --exec /bin/true": "nothing can be received from",
		"--broker-url amqp://h --topic a.* --exec /bin/true":           "subscribe.queue: is not set",
		"--broker-url amqp://h --topic a --topic b --exec /bin/true":   "subscribe.queue: is not set",
		"--topic a..b" + good:                                                  `has "a..b", which has an empty word`,
		"--forward http://h/" + good:                                           `subscribe.forward "http://h/" (flag --forward): is given beside --exec`,
		"--processes 0" + good:                                                 `--processes "0": must be 1 to 1000`,
		"--processes 2" + good:                                                 "--processes: is of use with --lines alone",
		"--in-order yes --dead-letters yes" + good:                             "subscribe.in_order",
		"--database-url mysql://h" + good:                                      "has the unknown scheme mysql",
		"--database-url sqlite:/does/not/exist" + good:                         "names a file that does not exist",
		"--timeout 0s --retries soon --concurrency 0" + good:                   "3 problems|subscribe.timeout|subscribe.retries|subscribe.concurrency",
		"--broker-url amqp://h --queue q --topic a --lines --forward http://h": "--lines: is of use with --exec alone",
		"--broker-url amqp://h --queue q --topic a --forward h:80":             "subscribe.forward",
		"--broker-url amqp://h --queue q --topic a --exec /does/not/exist":     `--exec "/does/not/exist": is no program that can be run: stat /does/not/exist: no such file`,
		"--broker-url amqp://h --queue q --topic a --forward http://h -- x":    `--exec: is not given, and there are arguments`,
		"--broker-url stomp://h --broker-exclusive yes --broker-queue-type quorum --queue q --topic a --exec /bin/true": `broker.queue_type "quorum"`,
		"--broker-queue-type x" + good: "must be quorum or classic",
		"--broker-url amqp://h --queue q --topic a --exec /bin/true l.py --queue x --lines=no --other --max-attempts":      "3 problems|--queue: stands behind the program and would be its argument: put it before --exec, or behind --|--lines: stands|--max-attempts: stands",
		"--broker-url amqp://h --queue q --topic a --lines --exec ./nope":                                                  `the configuration is wrong: --exec "./nope": is no program`,
		"--broker-url amqp://h --queue q --topic a --broker-secrets geheim --forward http://h":                             "the configuration is wrong: broker.secrets \"xxxxx\" (flag --broker-secrets)",
		"--broker-url amqp://h --queue q --topic a --broker-secrets geheim --broker-request-headers geheim --forward h:80": "3 problems|broker.request_headers|broker.secrets|subscribe.forward",
		"--topic /topic/a" + good:                          `subscribe.topics "/topic/a,a" (flag --topic): has "/topic/a", which is a destination of STOMP: write "a"`,
		"--topic= --topic b" + good:                        "subscribe.topics \"b,a\" (flag --topic): has an empty value",
		"--queue --broker-url amqp://u:geheim@h --topic a": "--exec: is not given",
	} {
		got := callContext(ended, nil, "", append([]string{"subscribe"}, strings.Fields(args)...)...)
		t.Run(args, func(t *testing.T) { got.want(t, exitUsage, strings.Split(want, "|")...) })
		if strings.Contains(got.stderr, "geheim") {
			t.Errorf("%s: a secret is shown: %s", args, got.stderr)
		}
	}
	spaced := call(t, nil, "", append([]string{"subscribe"}, append(strings.Fields("--broker-url amqp://h --queue q --topic a --exec"), "python3 l.py")...)...)
	spaced.want(t, exitUsage, `--exec "python3 l.py": is no program that can be run`, "; arguments stand behind it, unquoted")
	if help := call(t, nil, "", "subscribe", "--help").stdout; !strings.Contains(help, "where messages come from: amqp://") || strings.Contains(help, "stdout:") {
		t.Error("the help names brokers that nothing can be received from")
	}
	got := call(t, nil, "", append([]string{"subscribe", "--queue", "a b"}, strings.Fields("--broker-url amqp://h --topic a --exec true")...)...)
	got.want(t, exitUsage, `subscribe.queue "a b" (flag --queue): has a space`)
}

func TestQueueIsNamedByItsOnlyDestination(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ broker, destination, topic, wantTopic, wantQueue string }{
		{"stomp://h", "", "/topic/my_route_key", "my_route_key", "my_route_key"},
		{"stomp://h", "", "my_route_key.v1", "my_route_key.v1", "my_route_key.v1"},
		{"stomp://h", "/exchange/shop/{topic}", "/exchange/shop/user.created", "user.created", "user.created"},
		{"amqp://h", "", "user.created", "user.created", "user.created"},
	} {
		env := map[string]string{"OUTBOX_BROKER_URL": tc.broker, "OUTBOX_BROKER_DESTINATION": tc.destination, "OUTBOX_SUBSCRIBE_TOPICS": tc.topic}
		l := config.Load(config.Sources{Env: func(name string) (string, bool) { value, ok := env[name]; return value, ok }})
		wire.CheckSubscription(l)
		if err := l.Err(); err != nil || l.Subscribe.Topics[0] != tc.wantTopic || l.Subscribe.Queue != tc.wantQueue {
			t.Errorf("%+v: topic %q, queue %q, %v", tc, l.Subscribe.Topics, l.Subscribe.Queue, err)
		}
	}
}

func TestAnswerOfTheAddressSaysWhatBecomesOfTheMessage(t *testing.T) {
	t.Parallel()
	status := func(code int) error { return outbox.Refused(&webhook.StatusError{Code: code}) }
	for _, tc := range []struct {
		err     error
		outcome outbox.Outcome
		delay   time.Duration
		reason  string
	}{
		{nil, outbox.Ack, 0, ""},
		{status(http.StatusBadRequest), outbox.DeadLetter, 0, ""},
		{status(http.StatusUnprocessableEntity), outbox.DeadLetter, 0, ""},
		{outbox.Invalid(errors.New("too large")), outbox.DeadLetter, 0, "too large"},
		{status(http.StatusUnauthorized), outbox.Retry, time.Second, ""},
		{status(http.StatusNotFound), outbox.Retry, time.Second, ""},
		{status(http.StatusFound), outbox.Retry, time.Second, "302 Found: redirects are not followed, give the address itself"},
		{status(http.StatusInternalServerError), outbox.Retry, time.Second, ""},
		{outbox.Unavailable(errors.New("connection refused")), outbox.Retry, time.Second, "connection refused"},
		{outbox.RetryAfter(time.Minute, status(http.StatusTooManyRequests)), outbox.Retry, time.Minute, "429 Too Many Requests"},
	} {
		got := outboxtest.Deliver(t, outbox.Event{Topic: "a", Payload: 1}, func(w *worker.Worker) {
			worker.Handle(w, "a", func(context.Context, *worker.Delivery[[]byte]) error { return forwarded(tc.err) })
		})
		if got.Outcome != tc.outcome || got.Delay != tc.delay {
			t.Errorf("%v: %v after %v, want %v after %v", tc.err, got, got.Delay, tc.outcome, tc.delay)
		}
		if tc.reason != "" && got.Failure.Reason != tc.reason {
			t.Errorf("%v: the reason is %q, want %q", tc.err, got.Failure.Reason, tc.reason)
		}
	}
}

func TestSubscribeWithoutTheInboxSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	got := call(t, nil, "", "subscribe", "--database-url", testenv.Postgres(t).NewDatabase(t), "--broker-url", testenv.RabbitMQ(t).NewVHost(t),
		"--queue", "q", "--topic", "a", "--exec", "true")
	got.want(t, exitFailure, "look into the inbox", "outbox migrate")
}

// TestAllThatIsInTheQueueIsHandledOnce: patterns may overlap, and what others have sent
// to the queue is handled, too.
func TestAllThatIsInTheQueueIsHandledOnce(t *testing.T) {
	t.Parallel()
	url, dir := testenv.RabbitMQ(t).NewVHost(t), t.TempDir()
	p := startProgram(t, "worker ready", "subscribe", "--broker-url", url, "--queue", "q", "--topic", "#.created", "--topic", "user.#",
		"--exec", "/bin/sh", "--", "-c", `echo "$OUTBOX_TOPIC" >> "$0/$OUTBOX_ID"`, dir)
	both := call(t, nil, "", "send", "--broker-url", url, "--topic", "user.created", "--data", "1")
	both.want(t, 0)
	ch := rabbitChannel(t, url)
	if err := ch.PublishWithContext(t.Context(), "", "q", true, false, amqp.Publishing{MessageId: "foreign", Body: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	read := func(id string) string { text, _ := os.ReadFile(filepath.Join(dir, id)); return string(text) }
	await(t, "both messages", func() bool { return read("foreign") != "" && read(strings.TrimSpace(both.stdout)) != "" })
	p.signal(syscall.SIGTERM)
	p.wantCode(0, patience)
	if got := read(strings.TrimSpace(both.stdout)); got != "user.created\n" {
		t.Errorf("the program got %q, want the message once", got)
	}
}

// TestSecondSignalEndsTheProgramsToo: neither the worker nor what it has started is
// left.
func TestSecondSignalEndsTheProgramsToo(t *testing.T) {
	t.Parallel()
	url := testenv.RabbitMQ(t).NewVHost(t)
	file := filepath.Join(t.TempDir(), "pid")
	script := `trap '' TERM; echo $$ > ` + file + `.new; mv ` + file + `.new ` + file + `; sleep 1000; sleep 1000`
	p := startProgram(t, "worker ready", "subscribe", "--broker-url", url, "--queue", "q", "--topic", "a", "--exec", "/bin/sh", "--", "-c", script)
	call(t, nil, "", "send", "--broker-url", url, "--topic", "a", "--data", "1").want(t, 0)
	var pid int
	await(t, "the program to run", func() bool {
		text, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil
	})
	p.signal(syscall.SIGTERM)
	await(t, "the worker to stop", func() bool { return strings.Contains(p.log(), "worker stopping") })
	select {
	case <-p.ended:
		t.Fatalf("it did not wait for the program:\n%s", p.log())
	case <-time.After(2 * sameSignal):
	}
	p.signal(syscall.SIGTERM)
	p.wantCode(exitFailure, 5*time.Second)
	await(t, "the program to be gone", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}
