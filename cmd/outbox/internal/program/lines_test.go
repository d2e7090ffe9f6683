package program

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/worker"
)

// speakerVariable makes the test binary a program that speaks lines.
const speakerVariable = "PROGRAM_TEST_SPEAKER"

func TestMain(m *testing.M) {
	if file := os.Getenv(speakerVariable); file != "" {
		speak(file)
		return
	}
	os.Exit(m.Run())
}

// speak does what the payloads say, which are texts. It adds its process id to a file.
func speak(file string) {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(f, os.Getpid())
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var m struct {
			ID      string
			Payload json.RawMessage
		}
		if err := json.Unmarshal(line, &m); err != nil {
			panic(err)
		}
		var text string
		_ = json.Unmarshal(m.Payload, &text)
		word, rest, _ := strings.Cut(text, " ")
		switch word {
		case "say":
			fmt.Println(strings.ReplaceAll(rest, "ID", m.ID))
		case "silent":
		case "exit":
			fmt.Fprintln(os.Stderr, "out of luck")
			os.Exit(3)
		case "last":
			fmt.Printf(`{"id":%q,"ack":true}`, m.ID)
			os.Exit(0)
		case "grumble":
			fmt.Fprintln(os.Stderr, "grumble")
		case "quit":
			os.Exit(4)
		case "close":
			_ = os.Stdout.Close()
		case "echo":
			fmt.Printf(`{"id":%q,"reject":%q}`+"\n", m.ID, line)
		default:
			fmt.Printf(`{"id":%q,"ack":true}`+"\n", m.ID)
		}
	}
}

// startSpeakers starts processes that speak, and returns the file with their ids.
func startSpeakers(t *testing.T, n int) (l *Lines, pids string, log *buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pids = filepath.Join(t.TempDir(), "pids")
	c, _, log := shell("")
	c.Path, c.Args, c.Env = self, nil, append(os.Environ(), speakerVariable+"="+pids)
	l = StartLines(c, n)
	t.Cleanup(l.Close)
	return l, pids, log
}

func textDelivery(id, text string) *worker.Delivery[[]byte] {
	d := delivery(id, text)
	d.ContentType = "text/plain"
	return d
}

func TestAnswersSayWhatBecomesOfTheMessage(t *testing.T) {
	t.Parallel()
	l, _, log := startSpeakers(t, 1)
	for _, tc := range []struct {
		text    string
		outcome outbox.Outcome
		reason  string
		delay   time.Duration
	}{
		{"ack", outbox.Ack, "", 0},
		{`say {"id":"ID","retry":"90s","reason":"busy"}`, outbox.Retry, "busy", 90 * time.Second},
		{`say {"id":"ID","retry":true}`, outbox.Retry, "the program asks for another attempt", time.Second},
		{`say {"id":"ID","reject":"no such user"}`, outbox.DeadLetter, "no such user", 0},
		{`say {"id":"ID","reject":""}`, outbox.DeadLetter, "the program rejects it", 0},
		{`say {"id":"ID","ack":true,"retry":null,"reject":null,"reason":null}`, outbox.Ack, "", 0},
		{`say {"id":"ID","reject":true,"reason":"` + strings.Repeat("é", maxReason) + `"}`, outbox.DeadLetter, strings.Repeat("é", maxReason/2), 0},
		{`say {"id":"ID","reject":"` + strings.Repeat("x", 2*maxAnswer) + `"}`, outbox.Retry, "the program's answer is longer than 64 KiB", time.Second},
		{`say {"id":"ID","ack":tru`, outbox.Retry, "the program's answer " + errNoAnswer.Error(), time.Second},
		{`say {"id":"ID","retry":10}`, outbox.Retry, "the program's answer " + errBadRetry.Error(), time.Second},
		{`say {"id":"ID","reject":true,"reason":"no such user"}`, outbox.DeadLetter, "no such user", 0},
		{`say {"id":"ID"}`, outbox.Retry, "the program's answer " + errNoAnswer.Error(), time.Second},
		{`say {"id":"ID","ack":false}`, outbox.Retry, "the program's answer " + errNoAnswer.Error(), time.Second},
		{`say {"id":"ID","ack":true,"retry":true}`, outbox.Retry, "the program's answer " + errNoAnswer.Error(), time.Second},
		{`say {"id":"ID","retry":"soon"}`, outbox.Retry, "the program's answer " + errBadRetry.Error(), time.Second},
		{`say {"id":"ID","retry":"-1s"}`, outbox.Retry, "the program's answer " + errBadRetry.Error(), time.Second},
	} {
		got := judge(t, l.Handle(t.Context(), textDelivery("7", tc.text)))
		if got.Outcome != tc.outcome || got.Delay != tc.delay || got.Err != nil && got.Failure.Reason != tc.reason {
			t.Errorf("%.80s: %.200v after %v, want %v %.200q", tc.text, got, got.Delay, tc.outcome, tc.reason)
		}
	}
	// Of the eight bad ones.
	if n := strings.Count(log.String(), "answer of the program not understood"); n != 4 || !strings.Contains(log.String(), "id=7") || !strings.Contains(log.String(), "times=8") {
		t.Errorf("%d warnings, want the first, second, fourth and eighth:\n%s", n, log)
	}
}

func TestLineHasTheMessage(t *testing.T) {
	t.Parallel()
	l, _, _ := startSpeakers(t, 1)
	for payload, want := range map[string]string{
		"echo":    `"content_type":"text/plain","attempt":2,"queue":"q","headers":{"a":"b"},"payload":"echo"}`,
		"echo <é": `"payload":"echo <é"}`,
	} {
		d := textDelivery("7", payload)
		d.Attempt, d.Headers = 2, map[string]string{"a": "b"}
		if err := l.Handle(t.Context(), d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the line is %v, want %s in it", err, want)
		}
	}
	for payload, want := range map[string]string{
		"{\"n\": 1,\n\"m\": [2]}": `"payload":{"n":1,"m":[2]}}`,
		"x":                       `"payload":"x"}`,
		"\xff":                    `"payload_base64":"/w=="}`,
		"\"\xff\"":                `"payload_base64":"Iv8i"}`, // JSON but for its encoding
		"a\x00":                   `"payload_base64":"YQA="}`,
	} {
		line, err := encode("7", delivery("7", payload))
		if err != nil || !strings.HasSuffix(string(line), want+"\n") || strings.Count(string(line), "\n") != 1 {
			t.Errorf("%q is %s, %v, want %s", payload, line, err, want)
		}
	}
}

// TestProcessThatEndsFailsWhatItHas: the others go on with the next one.
func TestProcessThatEndsFailsWhatItHas(t *testing.T) {
	t.Parallel()
	l, file, log := startSpeakers(t, 1)
	silent := make(chan error, 1)
	go func() { silent <- l.Handle(t.Context(), textDelivery("1", "silent")) }()
	await(t, "the message to be with the program", func() bool { return l.unanswered() == 1 })
	err := l.Handle(t.Context(), textDelivery("2", "exit"))
	const want = "the program ended without an answer: exit status 3: out of luck"
	for _, err := range []error{err, <-silent} {
		if got := judge(t, err); got.Outcome != outbox.Retry || got.Failure.Reason != want {
			t.Errorf("got %v, want a retry for %q", got, want)
		}
	}
	if err := l.Handle(t.Context(), textDelivery("3", "ack")); err != nil {
		t.Error(err)
	}
	pidsIn(t, file, 2)
	if !strings.Contains(log.String(), `msg="program ended without answers" messages=2`) {
		t.Errorf("no warning:\n%s", log)
	}
}

// unanswered counts the messages that are with the processes.
func (l *Lines) unanswered() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.speakers {
		n += len(s.calls)
	}
	return n
}

// TestProgramThatSettlesNothing: whether it is silent or answers for another message,
// it is ended when the time of the message is over.
func TestProgramThatSettlesNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"silent", `say {"id":"other","ack":true}`, "say nonsense"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			l, file, log := startSpeakers(t, 1)
			pidsIn(t, file, 1)
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- l.Handle(ctx, textDelivery("1", text)) }()
			await(t, "the message to be with the program", func() bool { return l.unanswered() == 1 })
			if strings.HasPrefix(text, "say") {
				await(t, "a warning", func() bool { return strings.Contains(log.String(), "answer of the program not understood") })
			}
			cancel(errors.New("the time is over"))
			if got := judge(t, <-ended); got.Outcome != outbox.Retry || !strings.Contains(got.Failure.Reason, "ended without an answer: signal: terminated") {
				t.Errorf("got %v", got)
			}
			if !strings.Contains(log.String(), "ending a program that has not answered") || !strings.Contains(log.String(), "the time is over") {
				t.Errorf("no warning:\n%s", log)
			}
			if err := l.Handle(t.Context(), textDelivery("2", "ack")); err != nil {
				t.Errorf("the next one: %v", err)
			}
			pidsIn(t, file, 2)
		})
	}
}

func TestMessagesAreSharedByTheProcesses(t *testing.T) {
	t.Parallel()
	l, file, _ := startSpeakers(t, 3)
	pidsIn(t, file, 3)
	await(t, "all processes", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.speakers) == 3 })
	ctx, cancel := context.WithCancel(t.Context())
	var held sync.WaitGroup
	for i := range 6 {
		held.Go(func() { _ = l.Handle(ctx, textDelivery(fmt.Sprint("silent", i), "silent")) })
	}
	await(t, "two with each", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, s := range l.speakers {
			if len(s.calls) != 2 {
				return false
			}
		}
		return true
	})
	for i := range 100 {
		if err := l.Handle(t.Context(), textDelivery(fmt.Sprint(i), "ack")); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	held.Wait()
}

// TestOneIDTwice: the second waits, so that no answer is for the wrong one.
func TestOneIDTwice(t *testing.T) {
	t.Parallel()
	l, _, _ := startSpeakers(t, 2)
	var both sync.WaitGroup
	for range 20 {
		both.Go(func() {
			if err := l.Handle(t.Context(), textDelivery("1", "ack")); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
}

// TestTwinSaysWhatItWaitsFor: not that there is no process.
func TestTwinSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	l, _, _ := startSpeakers(t, 1)
	first, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Handle(first, textDelivery("1", "silent")) }()
	await(t, "the message to be with the program", func() bool { return l.unanswered() == 1 })
	over, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the time is over"))
	const want = "another delivery of it is still being handled: the time is over"
	if err := l.Handle(over, textDelivery("1", "silent")); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	stop()
	if err := <-ended; err == nil {
		t.Error("the first was not ended")
	}
}

// TestMessagesThatHaveNoID: they are none of them another's twin, and can be answered.
func TestMessagesThatHaveNoID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", "\xff"} {
		l, _, _ := startSpeakers(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		var held sync.WaitGroup
		for range 3 {
			held.Go(func() { _ = l.Handle(ctx, textDelivery(id, "silent")) })
		}
		await(t, "all to be with the program", func() bool { return l.unanswered() == 3 })
		if err := l.Handle(t.Context(), textDelivery(id, "ack")); err != nil {
			t.Error(err)
		}
		cancel()
		held.Wait()
	}
}

// TestLastAnswerNeedsNoLineFeed: the end of the output ends the line.
func TestLastAnswerNeedsNoLineFeed(t *testing.T) {
	t.Parallel()
	l, _, _ := startSpeakers(t, 1)
	if err := l.Handle(t.Context(), textDelivery("1", "last")); err != nil {
		t.Error(err)
	}
}

// TestProgramThatCannotBeSpokenWith is ended at once, and another is started.
func TestProgramThatCannotBeSpokenWith(t *testing.T) {
	t.Parallel()
	t.Run("it has closed its standard output", func(t *testing.T) {
		t.Parallel()
		l, file, log := startSpeakers(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if got := judge(t, l.Handle(ctx, textDelivery("1", "close"))); got.Outcome != outbox.Retry || !strings.Contains(got.Failure.Reason, "signal: terminated") {
			t.Errorf("got %v", got)
		}
		pidsIn(t, file, 2)
		if !strings.Contains(log.String(), "has closed its standard output") {
			t.Errorf("no warning:\n%s", log)
		}
	})
	t.Run("it has closed its standard input", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "pids")
		c, _, _ := shell(`exec 0<&-; echo $$ >> ` + file + `; sleep 1000`)
		l := StartLines(c, 1)
		defer l.Close()
		pidsIn(t, file, 1)
		ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the time is over"))
		defer cancel()
		err := l.Handle(ctx, delivery("1", "1"))
		if got := judge(t, err); ctx.Err() != nil || got.Outcome != outbox.Retry || !strings.Contains(got.Failure.Reason, "signal: terminated") {
			t.Errorf("got %v, %v", got, ctx.Err())
		}
	})
}

// TestLeavingProcessGetsNothing: others do.
func TestLeavingProcessGetsNothing(t *testing.T) {
	t.Parallel()
	leaving, other := &speaker{leaving: true, calls: map[string]*call{}}, &speaker{calls: map[string]*call{"1": {}}}
	l := &Lines{speakers: []*speaker{leaving, other}, changed: make(chan struct{})}
	if got := l.take("2"); got.speaker != other {
		t.Errorf("it is with %+v", got)
	}
	other.leaving = true
	if got := l.take("3"); got.speaker != nil || got.wait != (<-chan struct{})(l.changed) {
		t.Errorf("it is with %+v, want a wait for another process", got)
	}
}

// TestReasonIsNotThatOfAnotherMessage: what was said before an answer is no reason for
// what comes later.
func TestReasonIsNotThatOfAnotherMessage(t *testing.T) {
	t.Parallel()
	l, _, log := startSpeakers(t, 1)
	outcomes := make(chan error, 2)
	go func() { outcomes <- l.Handle(t.Context(), textDelivery("1", "grumble")) }()
	await(t, "the line", func() bool { return strings.Contains(log.String(), "grumble") })
	go func() { outcomes <- l.Handle(t.Context(), textDelivery("2", `say {"id":"1","ack":true}`)) }()
	if err := <-outcomes; err != nil {
		t.Errorf("the first: %v", err)
	}
	for _, err := range []error{l.Handle(t.Context(), textDelivery("3", "quit")), <-outcomes} {
		if err == nil || err.Error() != "the program ended without an answer: exit status 4" {
			t.Errorf("got %v", err)
		}
	}
}

// TestProgramThatHasAnsweredIsBackSoon: the wait does not grow.
func TestProgramThatHasAnsweredIsBackSoon(t *testing.T) {
	t.Parallel()
	l, _, log := startSpeakers(t, 1)
	for range 3 {
		if err := l.Handle(t.Context(), textDelivery("1", "ack")); err != nil {
			t.Fatal(err)
		}
		if err := l.Handle(t.Context(), textDelivery("2", "quit")); err == nil {
			t.Fatal("no error of a program that has ended")
		}
	}
	await(t, "three restarts", func() bool { return strings.Count(log.String(), "restart_in=") >= 3 })
	if n := strings.Count(log.String(), "restart_in=100ms"); n != 3 {
		t.Errorf("the log is\n%s", log)
	}
}

// TestProgramThatCannotRun: messages wait for it as long as they have time.
func TestProgramThatCannotRun(t *testing.T) {
	t.Parallel()
	c, _, log := shell("exit 3")
	l := StartLines(c, 1)
	defer l.Close()
	await(t, "several attempts", func() bool { return strings.Count(log.String(), "program ended") >= 2 })
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the time is over"))
	if err := l.Handle(ctx, delivery("1", "1")); err == nil || judge(t, err).Outcome != outbox.Retry {
		t.Errorf("got %v, want a retry", err)
	}
	if !strings.Contains(log.String(), "exit status 3") || !strings.Contains(log.String(), "restart_in=200ms") {
		t.Errorf("the log is\n%s", log)
	}
}

// TestCloseEndsTheInput: a process ends by itself; who does not, is ended.
func TestCloseEndsTheInput(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"ends":       `echo $$ > FILE; cat > /dev/null`,
		"goes on":    `echo $$ > FILE; sleep 1000`,
		"refuses to": `trap '' TERM; echo $$ > FILE; sleep 1000; sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "pids")
			c, _, _ := shell(strings.ReplaceAll(script, "FILE", file))
			l := StartLines(c, 1)
			pid := pidsIn(t, file, 1)[0]
			l.Close()
			if !gone(pid) {
				t.Error("it is there still")
			}
		})
	}
}

func TestLinesOfAnswersAreBounded(t *testing.T) {
	t.Parallel()
	var got []int
	w := &lineWriter{take: func(line []byte) { got = append(got, len(line)) }}
	for range 100 {
		_, _ = w.Write(make([]byte, 10_000))
	}
	if cap(w.line) > 4*maxAnswer {
		t.Errorf("%d bytes are kept", cap(w.line))
	}
	_, _ = w.Write([]byte("\nab\nc"))
	if fmt.Sprint(got) != fmt.Sprint([]int{maxAnswer + 1, 2}) {
		t.Errorf("the lines have %v bytes", got)
	}
}
