package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/store"
)

func (a *app) dead() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "List, show, export, redrive or discard dead letters",
		Long: `Dead letters are messages that were given up: refused as often as relay.max_attempts allows, never
deliverable, expired, taken by no route, or parked behind another one of their key. They stay until they
are redriven or discarded.`,
	}
	cmd.AddCommand(a.deadList(), a.deadShow(), a.deadExport(), a.deadChange(&redrive), a.deadChange(&discard))
	return cmd
}

func (a *app) deadList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [ID...]",
		Short: "List dead letters, the oldest first",
		Example: `  outbox dead list --config /etc/outbox.yaml
  outbox dead list --topic 'order.#' --reason exhausted --older-than 1h --json`,
	}
	return a.list(cmd, true, func() store.State { return store.Dead })
}

func (a *app) deadShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show ID...",
		Short:   "Show dead letters with their payloads and what the broker said",
		Example: `  outbox dead show 0190a5a0-0000-7000-8000-000000000001`,
	}
	return a.show(cmd, func(state store.State) bool { return state == store.Dead })
}

func (a *app) deadExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export [ID...]",
		Short: "Write dead letters as lines of JSON",
		Long: `Writes dead letters as lines of JSON, each with all of a message. payload_encoding says what payload is:
"json" the value itself, "text" a string, "base64" a string that stands for other bytes. Nothing is
changed.`,
		Example: `  outbox dead export --all > dead.jsonl
  outbox dead export --tenant acme --older-than 7d | gzip > acme.jsonl.gz`,
	}
	f := a.filterFlags(cmd.Flags(), true, true)
	var filter admin.Filter
	return a.administer(cmd,
		func(l *config.Loaded, ids []string) { filter = f.filter(l, ids) },
		func(cmd *cobra.Command, s wire.Store, _ []string) error {
			_, err := admin.New(s).Export(cmd.Context(), a.stdout, store.Dead, filter)
			return err
		})
}

// deadChange is a command that changes dead letters.
type deadChange struct {
	use, short, long, example string
	done                      string // redriven
	do                        func(a *admin.Admin, ctx context.Context, f admin.Filter) (int, error)
}

var redrive = deadChange{
	use:   "redrive [ID...]",
	short: "Send dead letters again, in their old places in the order",
	long: `Makes dead letters pending again, with their ids and their places in the order, and prints how many:
they go before what is behind them. With one of a parked key go all of that key.

Mend first what they died of. What fails again becomes a dead letter again, and is not taken a second
time by the same call. It works in chunks of 500; SIGINT or SIGTERM ends it after one of them.`,
	example: `  outbox dead redrive 0190a5a0-0000-7000-8000-000000000001
  outbox dead redrive --topic 'order.#' --reason exhausted
  outbox dead redrive --all`,
	done: "redriven", do: (*admin.Admin).Redrive,
}

var discard = deadChange{
	use:   "discard [ID...]",
	short: "Delete dead letters",
	long: `Deletes dead letters, and prints how many. When the last one of a parked key goes, the key's later
messages are sent again. Export them first if they may be of use.`,
	example: `  outbox dead discard 0190a5a0-0000-7000-8000-000000000001
  outbox dead discard --reason expired --older-than 30d`,
	done: "discarded", do: (*admin.Admin).Discard,
}

func (a *app) deadChange(c *deadChange) *cobra.Command {
	cmd := &cobra.Command{Use: c.use, Short: c.short, Long: c.long, Example: c.example}
	return a.change(cmd, "dead letter", c.done, true, c.do)
}

// change completes a command that changes the messages which its flags choose.
func (a *app) change(cmd *cobra.Command, what, done string, withReason bool, do func(*admin.Admin, context.Context, admin.Filter) (int, error)) *cobra.Command {
	f := a.filterFlags(cmd.Flags(), withReason, true)
	c := &messageChange{what: what, done: done, do: do}
	cmd.Flags().BoolVar(&c.asJSON, "json", false, "print the result as one JSON object")
	return a.administer(cmd,
		func(l *config.Loaded, ids []string) { c.filter = f.filter(l, ids) },
		func(cmd *cobra.Command, s wire.Store, _ []string) error { return c.run(cmd.Context(), s, a.stdout) })
}

// messageChange is what a command does to messages.
type messageChange struct {
	what, done string // "message", "retried"
	do         func(*admin.Admin, context.Context, admin.Filter) (int, error)
	filter     admin.Filter
	asJSON     bool
}

// run does it, and prints to how many.
func (c *messageChange) run(ctx context.Context, s store.Admin, out io.Writer) error {
	n, err := c.do(admin.New(finishing{s}), ctx, c.filter)
	if err == nil || n > 0 {
		if c.asJSON {
			_ = json.NewEncoder(out).Encode(map[string]int{c.done: n})
		} else {
			fmt.Fprintf(out, "%s %s\n", count(n, c.what, c.what+"s"), c.done)
		}
	}
	switch {
	case ctx.Err() != nil:
		return outcome(context.Cause(ctx).Error())
	case err == nil && n == 0 && len(c.filter.IDs) > 0:
		return outcome("there are no such " + c.what + "s")
	}
	return err
}

// finishing does not break off a chunk, lest nobody knows whether it counts.
type finishing struct {
	store.Admin
}

func (f finishing) Redrive(ctx context.Context, places []int64) (int, error) {
	return finish(ctx, places, f.Admin.Redrive)
}

func (f finishing) Discard(ctx context.Context, places []int64) (int, error) {
	return finish(ctx, places, f.Admin.Discard)
}

func (f finishing) Retry(ctx context.Context, refs []store.Ref) (int, error) {
	return finish(ctx, refs, f.Admin.Retry)
}

func finish[T any](ctx context.Context, chunk []T, do func(context.Context, []T) (int, error)) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return do(context.WithoutCancel(ctx), chunk)
}
