package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/program"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/worker"
)

// subscribeFlags are the flags of the command that are no keys.
type subscribeFlags struct {
	flags     *pflag.FlagSet
	exec      string
	args      []string
	lines     bool
	processes int
}

func (a *app) subscribe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "subscribe (--exec PROGRAM [ARG...] | --forward URL)",
		Short: "Have a program, or an HTTP address, handle the messages of a queue, until told to stop",
		Long: `Takes the messages of a queue and has a program in any language, or an HTTP address, handle each of them.
What fails is tried again after the waits of --retries, and in the end, or when it is rejected, it goes to
the queue's dead letters, with the reason. Any number of workers share a queue, and all that is in it is
handled, whatever collected it: topics that are left out later are still bound. In the file the command's own
settings are below "subscribe": subscribe.queue, subscribe.topics and so on.

Without --queue, and with one --topic without wild cards, the queue is named by it: by all of a topic, or
by the last segment of a destination such as /topic/my_route_key, which STOMP takes for a topic, too.

--exec PROGRAM runs the program for each message, with the payload on standard input and, in variables,
OUTBOX_ID, OUTBOX_TOPIC, OUTBOX_KEY, OUTBOX_TENANT, OUTBOX_TYPE, OUTBOX_VERSION, OUTBOX_CONTENT_TYPE,
OUTBOX_CREATED_AT, OUTBOX_ATTEMPT, OUTBOX_CORRELATION_ID, OUTBOX_QUEUE, OUTBOX_REASON (why the attempt before
failed) and OUTBOX_HEADERS (a JSON object). Other variables that begin with OUTBOX_ are not handed on: they
have this program's passwords. Arguments that begin with a dash stand behind "--"; flags of this command stand
before --exec. The exit code says what becomes of the message:

  0                   it is done
  65 (EX_DATAERR)     it is rejected: never tried again
  any other, signals  it failed; the last line on standard error is the reason
  75 (EX_TEMPFAIL)    the same: use it to say so

--exec with --lines starts --processes of them, which run on. Each gets messages as lines of JSON, with "id",
"topic", "key", "tenant", "type", "version", "content_type", "created_at", "attempt", "correlation_id", "queue",
"reason", "headers" and "payload" (JSON, or text as a string) or "payload_base64", several before the first is
answered: --concurrency of them. A message whose id is empty, or not UTF-8, has another one there, made for
this delivery. It answers each, in any order, by a line on standard output of up to 64 KiB, flushed:

  {"id": "...", "ack": true}
  {"id": "...", "retry": "10s", "reason": "busy"}     or "retry": true, by --retries
  {"id": "...", "reject": "no such user"}

A process that ends fails the messages that it has not answered, an attempt for each, and is started again,
later and later; one that closes its standard output is ended. An answer that cannot be understood fails its
message, and one for a message that the process does not have changes nothing. All are logged, of such
answers the first, second, fourth and so on of a process. At the end of its input a process is to end.

A process that takes longer than --timeout, with --lines for one message from when it was handed over, gets
SIGTERM and, 3s later, SIGKILL, with all that it has started in its process group: not what has left that, by
setsid or as a daemon. Its messages have failed. So it is when the worker stops and --shutdown-timeout has
passed, but then the messages go back, and it was no attempt. What a program leaves running in the background
when it exits by itself goes on, and the message is done.

--forward URL posts each message as a CloudEvent; broker.mode, source, request_headers and secrets say how.
2xx: it is done. 400, 413, 415 and 422: it is rejected. All else: it failed, redirects included, which are
not followed; a Retry-After says when it is tried again.

A program that cannot be started, or is away with --lines, and an address that does not answer are failed
attempts, too: by default a message is a dead letter some 6 min later. Where they may be away for longer,
give --retries 1s,10s,1m,5m --max-attempts 300, which is a day.

With database.url the inbox knows a message again that was done, by the queue and the id, and it is done
without the program. That holds for what has succeeded: a program may run twice for one message if it, or
this worker, is ended in between. What a program writes to a database of its own happens once if it begins
its transaction with

  INSERT INTO outbox.inbox (consumer, message_id) VALUES ('NAME', id) ON CONFLICT DO NOTHING

and, when that inserts no row, does nothing and exits with 0. NAME must not be the name of the queue. While
a message is handled a transaction is open: on SQLite, where one writes at a time, one message is handled
at a time, and its program cannot write to the same file.

SIGTERM, SIGINT or SIGHUP lets it take no more messages and finish those that run, within --shutdown-timeout; a
second signal ends it and its programs at once.`,
		Example: `  outbox subscribe --broker-url amqp://guest:guest@localhost/ --queue billing --topic 'order.*' --exec ./bill.py
  outbox subscribe --config outbox.yaml --queue mail --topic user.created --lines --exec node -- --trace-warnings mail.js
  outbox subscribe --broker-url stomp://guest:guest@localhost/ --topic /topic/my_route_key --forward http://localhost:8000/events`,
	}
	f := &subscribeFlags{flags: cmd.Flags()}
	f.flags.SetInterspersed(false)
	f.flags.StringVar(&f.exec, "exec", "", "`program` that handles messages; what stands behind it are its arguments")
	f.flags.BoolVar(&f.lines, "lines", false, "the program runs on, and speaks lines of JSON")
	f.flags.IntVar(&f.processes, "processes", 1, "how many of the program run, with --lines")
	names := append(keysBelow("broker", "unroutable", "timeout", "concurrency"), "subscribe", "database", "log")
	keys := a.keyFlags(f.flags, true, names...).withFile()
	f.flags.Lookup("broker-url").Usage = "where messages come from: amqp://, amqps://, nats://, stomp:// or stomps://; amqp and stomp try several hosts in turn, host:port,other:port [OUTBOX_BROKER_URL]"
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l := keys.load()
		f.args = args
		wire.CheckSubscription(l)
		if l.IsSet("database.url") {
			wire.CheckDatabase(l)
			wire.CheckFile(l)
			wire.CheckOneOutbox(l)
		}
		f.check(l)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runSubscribe(cmd.Context(), l, f)
	}
	return cmd
}

const maxProcesses = 1000

// check reports what is wrong with who handles the messages.
func (f *subscribeFlags) check(l *config.Loaded) {
	fault := func(flag, value, reason string) { l.Add(config.Problem{Key: flag, Value: value, Reason: reason}) }
	switch {
	case f.exec == "" && l.Subscribe.Forward == "":
		fault("--exec", "", "is not given, and neither is --forward: say what handles the messages")
	case f.exec != "" && l.Subscribe.Forward != "":
		l.Fault("subscribe.forward", "is given beside --exec: leave out one of them")
	case f.exec != "":
		f.checkProgram(fault)
	case len(f.args) > 0:
		// They are not shown: behind a flag whose value was forgotten one can be a URL.
		fault("--exec", "", "is not given, and there are arguments")
	}
	if f.lines && f.exec == "" {
		fault("--lines", "", "is of use with --exec alone")
	}
	if f.processes < 1 || f.processes > maxProcesses {
		fault("--processes", strconv.Itoa(f.processes), "must be 1 to "+strconv.Itoa(maxProcesses))
	} else if f.flags.Changed("processes") && !f.lines {
		fault("--processes", "", "is of use with --lines alone")
	}
}

// checkProgram looks for the program, and for flags of ours among its arguments.
func (f *subscribeFlags) checkProgram(fault func(flag, value, reason string)) {
	if path, err := exec.LookPath(f.exec); err == nil {
		f.exec = path
	} else {
		reason := "is no program that can be run: " + errors.Unwrap(err).Error()
		if strings.ContainsAny(f.exec, " \t") {
			reason += "; arguments stand behind it, unquoted"
		}
		fault("--exec", f.exec, reason)
	}
	for _, arg := range f.args {
		if arg == "--" || f.flags.ArgsLenAtDash() >= 0 {
			return
		}
		flag, _, _ := strings.Cut(arg, "=")
		if name, ok := strings.CutPrefix(flag, "--"); ok && f.flags.Lookup(name) != nil {
			fault(flag, "", "stands behind the program and would be its argument: put it before --exec, or behind --")
		}
	}
}

func (a *app) runSubscribe(ctx context.Context, l *config.Loaded, f *subscribeFlags) (err error) {
	stderr := &sharedWriter{w: a.stderr}
	logger := l.Log.Logger(stderr)
	sub, err := wire.OpenSubscriber(l.Broker, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sub.Close()) }()
	w := worker.New(collecting{sub, l.Subscribe.Topics}, workerConfig(&l.Subscribe, logger))
	handle := worker.Handle[[]byte]
	if l.Database.URL != "" {
		inbox, err := wire.OpenInbox(ctx, l.Database, l.Subscribe.Concurrency, logger)
		if err != nil {
			return err
		}
		defer closeStore(inbox, &err)
		handle = inbox.Handle
	}
	handler, release, err := a.handler(l, f, stderr, logger)
	if err != nil {
		return err
	}
	defer release()
	handle(w, "#", handler, worker.WithTimeout(l.Subscribe.Timeout))
	defer context.AfterFunc(ctx, func() { logger.Info("worker is to stop", "reason", context.Cause(ctx)) })()
	defer logReady(ctx, w, l, logger)()
	return w.Run(ctx)
}

// collecting is a subscriber to topics of its own: there is one handler for all that
// the queue has, however the patterns overlap.
type collecting struct {
	outbox.Subscriber
	topics []string
}

func (c collecting) Subscribe(ctx context.Context, s outbox.Subscription, ready func(), receive func(*outbox.Received)) error {
	s.Topics = c.topics
	return c.Subscriber.Subscribe(ctx, s, ready, receive)
}

// logReady tells when messages are collected, until it is told that they are not any
// more.
func logReady(ctx context.Context, w *worker.Worker, l *config.Loaded, logger *slog.Logger) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() {
		select {
		case <-w.Ready():
			logger.Info("worker ready", "version", version().Version, "broker", config.Redact(l.Broker.URL), "queue", l.Subscribe.Queue,
				"topics", l.Subscribe.Topics, "inbox", config.Redact(l.Database.URL))
		case <-ctx.Done():
		}
	})
	return func() {
		cancel()
		telling.Wait()
	}
}

// handler returns who handles the messages, and what ends it when none runs any more.
func (a *app) handler(l *config.Loaded, f *subscribeFlags, stderr io.Writer, logger *slog.Logger) (worker.Handler, func(), error) {
	if l.Subscribe.Forward != "" {
		p, err := wire.OpenForward(l.Config)
		if err != nil {
			return nil, nil, err
		}
		return forwarder(p), func() { _ = p.Close() }, nil
	}
	c := &program.Config{
		Path: f.exec, Args: f.args, Env: program.Environ(a.environ), Children: &a.children,
		Stdout: &sharedWriter{w: a.stdout}, Stderr: stderr, Logger: logger,
	}
	if !f.lines {
		return c.Handle, func() {}, nil
	}
	lines := program.StartLines(c, f.processes)
	return lines.Handle, lines.Close, nil
}

func workerConfig(s *config.Subscribe, logger *slog.Logger) *worker.Config {
	c := &worker.Config{
		Queue: s.Queue, Concurrency: s.Concurrency, Prefetch: s.Prefetch, InOrder: s.InOrder, DeadLetters: s.DeadLetters,
		Retries:        worker.Retries{Delays: s.Retries, MaxAttempts: s.MaxAttempts},
		InboxRetention: s.InboxKeep, ShutdownTimeout: s.ShutdownTimeout, Logger: logger,
	}
	if len(s.MessageID) > 0 {
		c.MessageID = worker.IDFromHeaders(s.MessageID...)
	}
	return c
}
