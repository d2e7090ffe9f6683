package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/store"
)

func (a *app) messages() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "messages",
		Short: "List, show, retry or cancel messages",
		Long: `Messages are pending until the broker has confirmed them; scheduled while they are not due; dead when
they were given up; and sent, if relay.keep keeps them.`,
	}
	cmd.AddCommand(a.messagesList(), a.messagesShow(), a.messagesRetry(), a.messagesCancel())
	return cmd
}

func (a *app) messagesList() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list [ID...]",
		Short: "List messages of one state, in their order",
		Long: `Lists messages of one state, in their order. NEXT says of a pending one what it waits for: another attempt
"in" some time, "blocked" until it is retried, "paused", or "behind" one of these of its key in the list.`,
		Example: `  outbox messages list --config /etc/outbox.yaml
  outbox messages list --waiting --topic 'order.#'
  outbox messages list --state sent --older-than 7d --json`,
	}
	state := stateFlag(store.Pending)
	cmd.Flags().Var(&state, "state", "pending, scheduled, dead or sent")
	return a.list(cmd, false, func() store.State { return store.State(state) })
}

// stateFlag is a state by its name.
type stateFlag store.State

func (s *stateFlag) String() string { return string(*s) }
func (s *stateFlag) Type() string   { return "state" }

func (s *stateFlag) Set(value string) error {
	switch *s = stateFlag(value); store.State(value) {
	case store.Pending, store.Scheduled, store.Dead, store.Sent:
		return nil
	}
	return errors.New("must be pending, scheduled, dead or sent")
}

const defaultLimit = 100

// list completes a command that lists messages.
func (a *app) list(cmd *cobra.Command, onlyDead bool, state func() store.State) *cobra.Command {
	f := a.filterFlags(cmd.Flags(), onlyDead, false)
	var filter admin.Filter
	limit, asJSON, waiting := 0, false, false
	if !onlyDead {
		cmd.Flags().BoolVar(&waiting, "waiting", false, "only pending ones that were refused and wait, or are blocked")
	}
	cmd.Flags().IntVar(&limit, "limit", defaultLimit, "most messages to list; 0 for all")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each as one JSON object, without its payload")
	return a.administer(cmd,
		func(l *config.Loaded, ids []string) {
			filter = f.filter(l, ids)
			filter.Waiting, filter.NoPayload = waiting, true
			if limit < 0 {
				l.Add(config.Problem{Key: "--limit", Value: strconv.Itoa(limit), Reason: "must be 0 or more"})
			}
			if waiting && state() != store.Pending {
				l.Add(config.Problem{Key: "--waiting", Reason: "is of use for pending messages alone"})
			}
		},
		func(cmd *cobra.Command, s wire.Store, _ []string) (err error) {
			p := newPrinter(a.stdout, state(), asJSON)
			if state() == store.Pending && !asJSON {
				if p.pauses, err = s.Pauses(cmd.Context()); err != nil {
					return err
				}
			}
			return a.printList(p, admin.New(s).List(cmd.Context(), state(), filter), limit)
		})
}

// printList prints up to limit rows, and says so if there are more, or none.
func (a *app) printList(p *printer, rows iter.Seq2[store.Stored, error], limit int) error {
	n := 0
	for row, err := range rows {
		if err != nil {
			return errors.Join(err, p.flush())
		}
		if n++; limit > 0 && n > limit {
			fmt.Fprintf(a.stderr, "outbox: there are more; raise --limit or set it to 0\n")
			break
		}
		if err := p.print(&row); err != nil {
			return err
		}
	}
	if n == 0 {
		fmt.Fprintf(a.stderr, "outbox: none\n")
	}
	return p.flush()
}

func (a *app) messagesShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show ID...",
		Short: "Show messages with their payloads, in every place where they are",
		Example: `  outbox messages show 0190a5a0-0000-7000-8000-000000000001
  outbox messages show 0190a5a0-0000-7000-8000-000000000001 --json`,
	}
	return a.show(cmd, func(store.State) bool { return true })
}

// show completes a command that shows the messages of ids in some states.
func (a *app) show(cmd *cobra.Command, wanted func(store.State) bool) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(1)
	asJSON := cmd.Flags().Bool("json", false, "print each as one JSON object")
	return a.administer(cmd, checkIDs, func(cmd *cobra.Command, s wire.Store, ids []string) error {
		var missing []error
		for _, id := range ids {
			rows, err := admin.New(s).Show(cmd.Context(), id)
			if err != nil {
				return err
			}
			found := false
			for i := range rows {
				if wanted(rows[i].State) {
					found = true
					if err := showOne(a.stdout, &rows[i], *asJSON); err != nil {
						return err
					}
				}
			}
			if !found {
				missing = append(missing, fmt.Errorf("there is no message %s", id))
			}
		}
		if len(missing) > 0 {
			return outcome(errors.Join(missing...).Error())
		}
		return nil
	})
}

func (a *app) messagesRetry() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry [ID...]",
		Short: "Try messages again now that wait for another attempt or are blocked",
		Long: `Makes pending messages due that wait for another attempt, or are blocked, with no attempts counted, and
prints how many.`,
		Example: `  outbox messages retry 0190a5a0-0000-7000-8000-000000000001
  outbox messages retry --topic 'order.#'`,
	}
	return a.change(cmd, "message", "retried", false, (*admin.Admin).Retry)
}

func (a *app) messagesCancel() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cancel ID",
		Short: "Delete a message that was not sent yet",
		Long: `Deletes a message, on all its routes, if it was not sent and cannot have been, and prints "cancelled".
If it is too late it prints "too late" and exits with 1. A relay that has the message is asked to give it
back, which takes some seconds.`,
		Example: `  outbox messages cancel 0190a5a0-0000-7000-8000-000000000001`,
		Args:    cobra.ExactArgs(1),
	}
	timeout := cmd.Flags().Duration("timeout", 30*time.Second, "how long to wait for a relay to give the message back")
	return a.administer(cmd,
		func(l *config.Loaded, ids []string) {
			checkIDs(l, ids)
			if *timeout <= 0 {
				l.Add(config.Problem{Key: "--timeout", Value: timeout.String(), Reason: "must be a positive duration"})
			}
		},
		func(cmd *cobra.Command, s wire.Store, ids []string) error {
			return a.cancel(cmd.Context(), s, ids[0], *timeout)
		})
}

// cancel prints the two answers that there are; all else is an error.
func (a *app) cancel(ctx context.Context, s store.Admin, id string, timeout time.Duration) error {
	ctx, end := context.WithTimeout(ctx, timeout)
	defer end()
	w, err := admin.New(s).Cancel(ctx, id)
	switch w {
	case store.Asked:
		return outcome("not cancelled: " + err.Error() + ": try again, with a longer --timeout")
	case store.Withdrawn:
		fmt.Fprintln(a.stdout, "cancelled")
		return err // what failed after that is told, and the answer stays
	case store.TooLate:
		fmt.Fprintln(a.stdout, "too late")
		return errors.Join(outcome("the message was sent, or may have been"), err)
	case store.IsDead:
		return errors.Join(outcome("the message is a dead letter: delete it by `outbox dead discard "+id+"`"), err)
	case store.Absent:
		return errors.Join(outcome("there is no message "+id+": it was sent long ago, or never emitted"), err)
	}
	return err
}
