package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/store"
)

// pauseFlags say what is held back.
type pauseFlags struct {
	flags *pflag.FlagSet
	pause store.Pause
	all   bool
}

func newPauseFlags(flags *pflag.FlagSet) *pauseFlags {
	f := &pauseFlags{flags: flags}
	flags.StringVar(&f.pause.Topic, "topic", "", "messages of topics that match this `pattern`, such as order.#")
	flags.StringVar(&f.pause.Key, "key", "", "messages of this key")
	flags.StringVar(&f.pause.Tenant, "tenant", "", "tenant that the key is of")
	flags.BoolVar(&f.all, "all", false, "all messages")
	return f
}

// check reports what is wrong with the flags.
func (f *pauseFlags) check(l *config.Loaded, _ []string) {
	some := false
	for _, name := range []string{"topic", "key", "tenant"} {
		if f.flags.Changed(name) {
			some = true
			if f.flags.Lookup(name).Value.String() == "" {
				l.Add(config.Problem{Key: "--" + name, Reason: "is empty: leave it out or name one"})
			}
		}
	}
	switch {
	case f.all && some:
		l.Add(config.Problem{Key: "--all", Reason: "is given beside other conditions: leave out one of them"})
	case !f.all && !some:
		l.Add(config.Problem{Key: "--all", Reason: "is not given, nor --topic or --key: give one of them, or --all to mean all messages"})
	}
	if f.pause.Topic != "" {
		if err := outbox.ValidatePattern(f.pause.Topic); err != nil {
			l.Add(config.Problem{Key: "--topic", Value: f.pause.Topic, Reason: err.Error()})
		}
	}
	if f.pause.Tenant != "" && f.pause.Key == "" {
		l.Add(config.Problem{Key: "--tenant", Value: f.pause.Tenant, Reason: "is given without --key: name the key"})
	}
}

func (a *app) pause() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Hold messages back until they are resumed",
		Long: `Holds messages back, all of them or those of a topic or key, until "outbox resume" with the same words.
They can be emitted meanwhile, and keep their order. Relays follow within a fifth of relay.lease_ttl; what
they have sent by then is sent. "outbox stats" shows what is paused.`,
		Example: `  outbox pause --topic 'mail.#'
  outbox pause --key 123 --tenant acme
  outbox pause --all`,
		Args: noArguments,
	}
	f := newPauseFlags(cmd.Flags())
	return a.administer(cmd, f.check, func(cmd *cobra.Command, s wire.Store, _ []string) error {
		fresh, err := admin.New(s).Pause(cmd.Context(), f.pause)
		if err != nil {
			return err
		}
		word := "was paused before"
		if fresh {
			word = "paused"
		}
		_, err = fmt.Fprintf(a.stdout, "%s: %s\n", word, pauseText(f.pause))
		return err
	})
}

func (a *app) resume() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Send again what was paused",
		Long: `Ends the pause of just these words: --all that of all messages, while those of topics and keys stay, and
are named. If there was no such pause it exits with 1.`,
		Example: `  outbox resume --topic 'mail.#'
  outbox resume --all`,
		Args: noArguments,
	}
	f := newPauseFlags(cmd.Flags())
	return a.administer(cmd, f.check, func(cmd *cobra.Command, s wire.Store, _ []string) error {
		found, err := admin.New(s).Resume(cmd.Context(), f.pause)
		if err != nil {
			return err
		}
		if found {
			fmt.Fprintf(a.stdout, "resumed: %s\n", pauseText(f.pause))
		}
		rest, err := s.Pauses(cmd.Context())
		if err != nil {
			return err
		}
		for _, p := range rest {
			fmt.Fprintf(a.stderr, "outbox: still paused: %s\n", pauseText(p))
		}
		if !found {
			return outcome("there was no pause of " + pauseText(f.pause))
		}
		return nil
	})
}

// pauseText says what a pause is of.
func pauseText(p store.Pause) string {
	var words []string
	if p.Topic != "" {
		words = append(words, "topic "+p.Topic)
	}
	if p.Tenant != "" {
		words = append(words, "tenant "+p.Tenant)
	}
	if p.Key != "" {
		words = append(words, "key "+p.Key)
	}
	if len(words) == 0 {
		return "all messages"
	}
	return strings.Join(words, ", ")
}
