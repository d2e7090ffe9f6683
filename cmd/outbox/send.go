package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

func (a *app) send() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send",
		Short: "Send messages directly to the broker, past the table, and print their ids",
		Long: `Sends one message directly to the broker, past any table, and prints its id when the broker has confirmed
it. It fails when the broker does not: nobody tries again, and a message of which the answer was lost may
be there. The payload is what --data says, or the content of --file, or else standard input.

A message that no queue collects is refused by AMQP (--broker-unroutable accept has it dropped); by STOMP the
broker confirms and drops it, so start the worker, or bind a queue, first.

` + linesHelp + `

Up to 500 of them are sent before the first is confirmed, and at once when the input pauses. The first line
that is not confirmed ends the command, and the fault says with which --skip to go on; of the lines behind it
some may be there, with the ids that they had.`,
		Example: `  outbox send --broker-url amqp://guest:guest@localhost/ --topic user.created --data '{"id": 123}'
  outbox send --broker-url stomp://guest:guest@localhost/ --lines --file users.jsonl`,
		Args: noArguments,
	}
	f := a.messageFlags(cmd.Flags())
	keys := a.keyFlags(cmd.Flags(), true, append(publisherKeys(), "log")...).withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckBroker(l)
		if f.lines {
			f.checkLines(l)
		} else {
			f.checkOne(l, a.stdin, nil, flagOf)
		}
		if err := l.Err(); err != nil {
			return err
		}
		p, err := wire.OpenPublisher(l.Broker, a.stdout, l.Log.Logger(a.stderr))
		if err != nil {
			return err
		}
		return a.runSend(cmd.Context(), p, f)
	}
	return cmd
}

// publisherKeys are the keys of a broker that are of use to who sends to it.
func publisherKeys() []string { return keysBelow("broker", "queue_type", "queue_headers", "exclusive") }

func (a *app) runSend(ctx context.Context, p outbox.Publisher, f *messageFlags) (err error) {
	defer func() {
		if closeErr := p.Close(); err == nil {
			err = closeErr
		}
	}()
	if f.lines {
		return a.feed(ctx, f, &feed{done: "sent", put: func(ctx context.Context, entries []entry) (int, error) {
			return sendAll(ctx, p, messagesOf(entries))
		}})
	}
	messages, err := prepare(nil, f.event)
	if err != nil {
		return err
	}
	if _, err := sendAll(ctx, p, messages); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	_, err = fmt.Fprintln(a.stdout, f.event.ID)
	return err
}

// sendAll publishes messages and waits for all answers. It returns how many, from
// the first on, are confirmed, and why the next one is not.
func sendAll(ctx context.Context, p outbox.Publisher, messages []outbox.Message) (confirmed int, err error) {
	answers := make([]chan error, len(messages))
	for i := range messages {
		answers[i] = make(chan error, 1)
		p.Publish(ctx, &messages[i], func(err error) { answers[i] <- err })
	}
	if flusher, ok := p.(outbox.Flusher); ok {
		_ = flusher.Flush() // told to each done
	}
	for i, answer := range answers {
		if e := <-answer; e != nil && err == nil {
			confirmed, err = i, e
		}
	}
	if err != nil {
		return confirmed, err
	}
	return len(messages), nil
}
