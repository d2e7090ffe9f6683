package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

const (
	maxPurgeChunk = 100_000

	// purgePause lets others have the database between two chunks.
	purgePause = 50 * time.Millisecond
)

// purgeFlags say what to delete.
type purgeFlags struct {
	olderThan string
	age       time.Duration // what olderThan says
	chunk     int
	dryRun    bool
	json      bool
	inbox     bool
	sent      bool
}

// purged is the result: rows deleted from each place that was purged.
type purged struct {
	Inbox  *int `json:"inbox,omitempty"`
	Sent   *int `json:"sent,omitempty"`
	DryRun bool `json:"dry_run"`
}

// place is one of those that can be purged.
type place struct {
	name  string
	rows  **int // in the result
	purge func(ctx context.Context, age time.Duration, limit int) (int, error)
	count func(ctx context.Context, age time.Duration) (int, error)
}

func (f *purgeFlags) places(s wire.Store, result *purged) (places []place) {
	both := f.inbox == f.sent
	if both || f.inbox {
		places = append(places, place{"inbox", &result.Inbox, s.PurgeInbox, s.CountInbox})
	}
	if both || f.sent {
		places = append(places, place{"sent", &result.Sent, s.PurgeSent, s.CountSent})
	}
	return places
}

func (a *app) purge() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Delete what is kept of messages of long ago",
		Long: `Deletes rows that are only kept for a while, and prints how many. These are the rows of the inbox, by
which workers know the messages that they have handled, and the history of messages that were sent, which
there is where relay.keep says so; --inbox or --sent limits it to one. Messages that are yet to be sent
and dead letters are never deleted.

A message that comes again after its row in the inbox is gone is handled again: --older-than must be
longer than a broker keeps or repeats messages. It is counted by the database's clock, and has no
default. Workers delete the rows of their own inbox by themselves, unless they are told not to, and relays
what is older than relay.keep.

The rows are deleted in chunks, each in a transaction of its own, with a short pause between them.
Several processes may do so at once. SIGINT or SIGTERM lets the chunk that is at work finish, prints what
was deleted until then, and exits with 1; calling it again goes on.`,
		Example: `  outbox purge --database-url postgres://app@localhost/shop --older-than 30d --dry-run
  outbox purge --config /etc/outbox.yaml --sent --older-than 1d12h --json`,
		Args: noArguments,
	}
	var f purgeFlags
	flags := cmd.Flags()
	flags.StringVar(&f.olderThan, "older-than", "", "`age` of what is deleted, such as 30d, 36h or 1d12h (required)")
	flags.BoolVar(&f.inbox, "inbox", false, "only of the inbox")
	flags.BoolVar(&f.sent, "sent", false, "only of the history of sent messages")
	flags.BoolVar(&f.dryRun, "dry-run", false, "count what would be deleted and delete nothing")
	flags.IntVar(&f.chunk, "chunk", 1000, "rows deleted in one transaction")
	flags.BoolVar(&f.json, "json", false, "print the result as one JSON object")
	keys := a.keyFlags(flags, true, "database", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		wire.CheckOneOutbox(l)
		f.check(l)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runPurge(cmd.Context(), l, &f)
	}
	return cmd
}

// check reads the age and reports what is wrong with the flags.
func (f *purgeFlags) check(l *config.Loaded) {
	age, err := config.ParseAge(f.olderThan)
	switch {
	case f.olderThan == "":
		l.Add(config.Problem{Key: "--older-than", Reason: "is not set: say how old what is deleted must be, for example 30d"})
	case err != nil:
		l.Add(config.Problem{Key: "--older-than", Value: f.olderThan, Reason: err.Error()})
	}
	f.age = age
	if f.chunk < 1 || f.chunk > maxPurgeChunk {
		l.Add(config.Problem{Key: "--chunk", Value: strconv.Itoa(f.chunk), Reason: fmt.Sprintf("must be 1 to %d", maxPurgeChunk)})
	}
}

func (a *app) runPurge(ctx context.Context, l *config.Loaded, f *purgeFlags) (err error) {
	s, err := wire.OpenStore(ctx, l.Database, l.Log.Logger(a.stderr))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	result := purged{DryRun: f.dryRun}
	some := false
	for _, place := range f.places(s, &result) {
		var n int
		if f.dryRun {
			n, err = place.count(ctx, f.age)
		} else {
			n, err = purgeAll(ctx, place.purge, f.age, f.chunk)
		}
		if err == nil || n > 0 {
			*place.rows, some = &n, true
		}
		if err != nil {
			break
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else {
		err = wire.DatabaseError("purge", l.Database, err)
	}
	if some {
		err = errors.Join(err, f.report(a.stdout, result))
	}
	return err
}

// purgeAll deletes chunk by chunk until one is not full: what has become old
// meanwhile is for the next time. A chunk is not broken off, lest nobody knows
// whether it counts.
func purgeAll(
	ctx context.Context, purge func(context.Context, time.Duration, int) (int, error), age time.Duration, chunk int,
) (rows int, err error) {
	for ctx.Err() == nil {
		n, err := purge(context.WithoutCancel(ctx), age, chunk)
		if rows += n; err != nil || n < chunk {
			return rows, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(purgePause):
		}
	}
	return rows, ctx.Err()
}

func (f *purgeFlags) report(w io.Writer, result purged) error {
	if f.json {
		return json.NewEncoder(w).Encode(result)
	}
	done := "deleted"
	if result.DryRun {
		done = "would be deleted"
	}
	var err error
	if result.Inbox != nil {
		_, err = fmt.Fprintf(w, "inbox: %s older than %s %s\n", count(*result.Inbox, "row", "rows"), f.olderThan, done)
	}
	if result.Sent != nil {
		_, err = fmt.Fprintf(w, "sent: %s older than %s %s\n", count(*result.Sent, "message", "messages"), f.olderThan, done)
	}
	return err
}
