// Command peer does the work of `outbox bench` by other means, so that the two can be
// compared: by River, by Watermill's forwarder, by a bare LISTEN/NOTIFY relay, and by
// bare loops on the clients of RabbitMQ and NATS.
//
//	peer river|watermill drain|steady [flags]
//	peer notify steady [flags]
//	peer amqp|nats drain [flags]
//
// The last line that it writes is the result, a JSON object. It exits with 1 when a
// message was lost or never emitted, or the run failed; what a system does not promise,
// order or no duplicates, is only counted.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/outbox-go/outbox/bench/internal/bare"
	"github.com/outbox-go/outbox/bench/internal/notify"
	"github.com/outbox-go/outbox/bench/internal/river"
	"github.com/outbox-go/outbox/bench/internal/watermill"
	"github.com/outbox-go/outbox/bench/internal/work"
	"github.com/outbox-go/outbox/broker/rabbitmq"
)

const (
	drain  = "drain"
	steady = "steady"
)

// peer is a system that can be measured.
type peer struct {
	works  []string
	run    func(ctx context.Context, s *work.Settings, steady bool) (*report, error)
	system func(ctx context.Context, s *work.Settings) (work.System, error) // nil for a bare loop
}

func peers() map[string]peer {
	return map[string]peer{
		"river":     {works: []string{drain, steady}, system: opener(river.New)},
		"watermill": {works: []string{drain, steady}, system: opener(watermill.New)},
		"notify":    {works: []string{steady}, system: opener(notify.New)},
		"amqp":      {works: []string{drain}, run: loop(bare.AMQP, "github.com/rabbitmq/amqp091-go")},
		"nats":      {works: []string{drain}, run: loop(bare.NATS, "github.com/nats-io/nats.go")},
	}
}

func opener[S work.System](open func(context.Context, *work.Settings) (S, error)) func(context.Context, *work.Settings) (work.System, error) {
	return func(ctx context.Context, s *work.Settings) (work.System, error) { return open(ctx, s) }
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

// run is the program; all but the result goes to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) < 2 {
		return errors.New("want SYSTEM WORK [flags], such as: peer river drain --broker-url URL --database-url URL")
	}
	name, what := args[0], args[1]
	p, ok := peers()[name]
	switch {
	case !ok:
		return fmt.Errorf("system is %q, want river, watermill, notify, amqp or nats", name)
	case what != work.ChildCommand && !slices.Contains(p.works, what):
		return fmt.Errorf("work is %q, want for %s one of %v", what, name, p.works)
	case what == work.ChildCommand && p.system == nil:
		return fmt.Errorf("%s has no relay", name)
	}
	s, err := parse(name, what, args[2:], stderr)
	if err != nil {
		return err
	}
	if what == work.ChildCommand {
		return child(ctx, p, s)
	}
	if err := validate(p, s, what); err != nil {
		return err
	}
	r, err := measured(ctx, p, s, what == steady)
	if err != nil {
		return err
	}
	r.System, r.Work, r.Settings = name, what, s
	if err := json.NewEncoder(stdout).Encode(r); err != nil {
		return err
	}
	if r.Lost > 0 || r.Phantom > 0 {
		return fmt.Errorf("%d messages lost, %d never emitted", r.Lost, r.Phantom)
	}
	return nil
}

func parse(name, what string, args []string, stderr io.Writer) (*work.Settings, error) {
	s := &work.Settings{Name: work.NewName()}
	f := flag.NewFlagSet(name+" "+what, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.DatabaseURL, "database-url", os.Getenv(work.DatabaseVariable), "PostgreSQL; the variable "+work.DatabaseVariable+" does as well")
	f.StringVar(&s.BrokerURL, "broker-url", os.Getenv(work.BrokerVariable), "RabbitMQ, for nats NATS; the variable "+work.BrokerVariable+" does as well")
	f.IntVar(&s.Messages, "messages", 100_000, "messages of the backlog of a drain")
	f.IntVar(&s.Keys, "keys", 10_000, "keys, 0 for none")
	f.IntVar(&s.Payload, "payload", 250, "bytes of a payload")
	f.StringVar((*string)(&s.QueueType), "queue-type", string(rabbitmq.Quorum), "quorum or classic")
	f.IntVar(&s.Topics, "topics", 1, "topics of watermill that messages are spread over by key, each with a forwarder")
	f.IntVar(&s.Window, "window", 1000, "unanswered messages of amqp, nats and notify")
	f.Float64Var(&s.Rate, "rate", 1000, "messages a second that a steady work offers")
	f.DurationVar(&s.Duration, "duration", 10*time.Second, "of a steady work, without --warm-up")
	f.DurationVar(&s.WarmUp, "warm-up", time.Second, "of a steady work, whose latencies do not count")
	f.IntVar(&s.Emitters, "emitters", 8, "emitting connections of a steady work")
	f.DurationVar(&s.Hold, "hold", 3*time.Millisecond, "time between insert and commit of some transactions")
	f.Float64Var(&s.HoldShare, "hold-share", 0.5, "their share, 0 to 1")
	f.BoolVar(&s.HoldSnapshot, "hold-snapshot", false, "another session holds a snapshot from before the first message to the end")
	f.BoolVar(&s.Raw, "raw", false, "nats: count acknowledgements by a subscription of the loop's own")
	f.BoolVar(&s.Properties, "properties", false, "amqp: send with each payload the id, content type, key and time that a relay sends")
	f.DurationVar(&s.Timeout, "timeout", 10*time.Minute, "what has not arrived after it is lost")
	f.Func("relay", "here (in this process) or process (in one of its own; notify always)", func(where string) error {
		if s.Process = where == "process"; !s.Process && where != "here" {
			return errors.New("want here or process")
		}
		return nil
	})
	if what == work.ChildCommand {
		f.StringVar(&s.Name, "name", "", "name of the run")
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if name == "notify" {
		s.Process = true
	}
	return s, nil
}

func validate(p peer, s *work.Settings, what string) error {
	var missing error
	if p.system != nil && s.DatabaseURL == "" {
		missing = errors.New("--database-url is missing, give it or set " + work.DatabaseVariable)
	}
	return errors.Join(missing, s.Validate(what == steady))
}

func child(ctx context.Context, p peer, s *work.Settings) error {
	system, err := p.system(ctx, s)
	if err != nil {
		return err
	}
	return work.Child(ctx, system)
}

func measured(ctx context.Context, p peer, s *work.Settings, steady bool) (*report, error) {
	if p.system == nil {
		return p.run(ctx, s, steady)
	}
	system, err := p.system(ctx, s)
	if err != nil {
		return nil, err
	}
	result, err := work.Run(ctx, system, s, steady)
	if err != nil {
		return nil, err
	}
	d := system.Describe()
	return &report{Result: *result, Versions: versions(d.Modules), SystemSettings: d.Settings}, nil
}
