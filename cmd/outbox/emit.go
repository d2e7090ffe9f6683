package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// emitFlags describe the message, and where and when it goes.
type emitFlags struct {
	*messageFlags
	routes []string

	deliverAt, deliverIn, expiresAt, expiresIn string
}

func (a *app) emit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "emit",
		Short: "Emit messages, in transactions of their own, and print their ids",
		Long: `Emits one message, in a transaction of its own, and prints its id. The payload is what --data says, or
the content of --file, or else standard input. It is JSON unless --content-type says otherwise, and is
stored byte for byte.

With --deliver-at or --in it is sent when that time has come, with --expires-at or --expires-in no longer
once it has passed. --in and --expires-in count from now by this machine's clock, relays go by the
database's.

` + linesHelp + ` A line has also "deliver_at" and "expires_at",
times such as 2030-01-31T08:00:00Z, and "routes", a list of names.

Lines are emitted in transactions of up to 500, and as soon as the input pauses, so that a program can
write to it for ever. A line at fault ends the command: all lines before it are emitted by then, none
after it, and the fault says with which --skip to go on. When the answer to a commit was lost, the lines
of which that is not known are named; emitted again with ids of their own, receivers know them again.`,
		Example: `  outbox emit --topic user.created --key 123 --data '{"id": 123}'
  outbox emit --topic report.ready --content-type application/pdf --file report.pdf
  outbox emit --topic reminder.due --in 2h --expires-in 1d --data '{"id": 123}'
  echo '{"topic": "user.created", "key": "123", "payload": {"id": 123}}' | outbox emit --lines`,
		Args: noArguments,
	}
	f := a.emitFlags(cmd.Flags())
	keys := a.keyFlags(cmd.Flags(), true, "database", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		wire.CheckOneOutbox(l)
		f.check(l, a)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runEmit(cmd.Context(), l, f)
	}
	return cmd
}

func (a *app) emitFlags(flags *pflag.FlagSet) *emitFlags {
	f := &emitFlags{messageFlags: a.messageFlags(flags)}
	flags.StringArrayVar(&f.routes, "route", nil, "`name` of the route that it takes; may be repeated: each gets a copy")
	flags.StringVar(&f.deliverAt, "deliver-at", "", "`time` before which it is not sent, such as 2030-01-31T08:00:00Z")
	flags.StringVar(&f.deliverIn, "in", "", "`age` that it is to have when it is sent, such as 90m or 1d")
	flags.StringVar(&f.expiresAt, "expires-at", "", "`time` from which on it is not sent any more")
	flags.StringVar(&f.expiresIn, "expires-in", "", "`age` from which on it is not sent any more")
	return f
}

// check completes the event and reports what is wrong with it.
func (f *emitFlags) check(l *config.Loaded, a *app) {
	if f.lines {
		f.checkLines(l)
		return
	}
	now := time.Now()
	f.event.DeliverAt = instant(l, now, "--deliver-at", f.deliverAt, "--in", f.deliverIn)
	f.event.ExpiresAt = instant(l, now, "--expires-at", f.expiresAt, "--expires-in", f.expiresIn)
	f.checkOne(l, a.stdin, f.routes, f.flagOf)
}

// instant returns the time that one of two flags says, the first by itself and the
// second from now on, and reports what is wrong with them.
func instant(l *config.Loaded, now time.Time, atFlag, at, inFlag, in string) time.Time {
	switch {
	case at != "" && in != "":
		l.Add(config.Problem{Key: inFlag, Value: in, Reason: "is given beside " + atFlag + ": leave out one of them"})
	case at != "":
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			l.Add(config.Problem{Key: atFlag, Value: at, Reason: "is not a time such as 2030-01-31T08:00:00Z or 2030-01-31T09:00:00+01:00"})
		}
		return t
	case in != "":
		age, err := config.ParseAge(in)
		if err != nil {
			l.Add(config.Problem{Key: inFlag, Value: in, Reason: err.Error()})
			return time.Time{}
		}
		return now.Add(age)
	}
	return time.Time{}
}

// flagOf returns the flag that sets a field of an event.
func (f *emitFlags) flagOf(field string) string {
	switch {
	case field == "DeliverAt" && f.deliverIn != "":
		return "--in"
	case field == "DeliverAt":
		return "--deliver-at"
	case field == "ExpiresAt" && f.expiresIn != "":
		return "--expires-in"
	case field == "ExpiresAt":
		return "--expires-at"
	}
	return flagOf(field)
}

func (a *app) runEmit(ctx context.Context, l *config.Loaded, f *emitFlags) (err error) {
	s, err := wire.OpenStore(ctx, l.Database, l.Log.Logger(a.stderr))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	if f.lines {
		return a.feed(ctx, f.messageFlags, &feed{done: "emitted", timed: true, put: func(ctx context.Context, entries []entry) (int, error) {
			if err := s.Insert(ctx, messagesOf(entries)); err != nil {
				return 0, wire.DatabaseError("emit", l.Database, err)
			}
			return len(entries), nil
		}})
	}
	if err := s.Emit(ctx, f.routes, f.event); err != nil {
		return wire.DatabaseError("emit", l.Database, err)
	}
	_, err = fmt.Fprintln(a.stdout, f.event.ID)
	return err
}
