package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
	"github.com/outbox-go/outbox/store"
)

// filterFlags choose messages.
type filterFlags struct {
	flags                           *pflag.FlagSet
	topic, tenant, key, route       string
	reason, olderThan               string
	all, withReason, needsCondition bool
}

// filterFlags adds the flags that choose messages. Those of a command that changes
// them have --all, which must be given to mean all.
func (a *app) filterFlags(flags *pflag.FlagSet, withReason, needsCondition bool) *filterFlags {
	f := &filterFlags{flags: flags, withReason: withReason, needsCondition: needsCondition}
	flags.StringVar(&f.topic, "topic", "", "only of topics that match this `pattern`, such as order.#")
	flags.StringVar(&f.tenant, "tenant", "", "only of this tenant; empty for those without one")
	flags.StringVar(&f.key, "key", "", "only of this key; empty for those without one")
	flags.StringVar(&f.route, "route", "", "only of this route; empty for those without one")
	if withReason {
		flags.StringVar(&f.reason, "reason", "", "only dead for this reason: exhausted, invalid, expired, parked or unrouted")
	}
	flags.StringVar(&f.olderThan, "older-than", "", "only dead, sent or else emitted longer than this `age` ago by this machine's clock, such as 2h or 30d")
	if needsCondition {
		flags.BoolVar(&f.all, "all", false, "all of them")
	}
	return f
}

// reasons that --reason takes.
var reasons = []string{string(store.Exhausted), string(store.Invalid), string(store.Expired), string(store.Parked), string(store.Unrouted)}

// filter returns what the flags and the ids choose, and reports what is wrong with
// them.
func (f *filterFlags) filter(l *config.Loaded, ids []string) admin.Filter {
	filter := admin.Filter{All: f.all, IDs: ids, Topic: f.topic, Reason: store.Reason(f.reason)}
	checkIDs(l, ids)
	fault := func(flag, value string, err error) {
		if err != nil {
			l.Add(config.Problem{Key: flag, Value: value, Reason: err.Error()})
		}
	}
	if f.flags.Changed("topic") {
		fault("--topic", f.topic, outbox.ValidatePattern(f.topic))
	}
	given := func(name string, value *string) *string {
		if f.flags.Changed(name) {
			return value
		}
		return nil
	}
	filter.Tenant, filter.Key, filter.Route = given("tenant", &f.tenant), given("key", &f.key), given("route", &f.route)
	if f.route != "" {
		fault("--route", f.route, outbox.ValidateRoute(f.route))
	}
	if f.flags.Changed("reason") && !slices.Contains(reasons, f.reason) {
		fault("--reason", f.reason, fmt.Errorf("must be one of %v", reasons))
	}
	if f.flags.Changed("older-than") {
		age, err := config.ParseAge(f.olderThan)
		fault("--older-than", f.olderThan, err)
		filter.Before = time.Now().Add(-age)
	}
	f.checkAll(l, len(ids) > 0)
	return filter
}

// checkAll reports a change of all that is not called that, or called that beside
// conditions.
func (f *filterFlags) checkAll(l *config.Loaded, some bool) {
	if !f.needsCondition {
		return
	}
	var empty []string // as by a variable that is not set: no condition by themselves
	for _, name := range []string{"topic", "tenant", "key", "route", "reason", "older-than"} {
		switch flag := f.flags.Lookup(name); {
		case flag == nil || !flag.Changed:
		case flag.Value.String() == "":
			empty = append(empty, "--"+name)
		default:
			some = true
		}
	}
	switch {
	case f.all && (some || len(empty) > 0):
		l.Add(config.Problem{Key: "--all", Reason: "is given beside ids or other conditions: leave out one of them"})
	case !some && len(empty) > 0:
		l.Add(config.Problem{Key: strings.Join(empty, ", "), Reason: "is empty, and no other condition is given: name one, or add --topic '#' to mean those without one"})
	case !f.all && !some:
		l.Add(config.Problem{Key: "--all", Reason: "is not given, nor any id or other condition: name ids, give a condition such as --topic, or --all to mean all of them"})
	}
}

func checkIDs(l *config.Loaded, ids []string) {
	for _, id := range ids {
		if _, err := uuid.Parse(id); err != nil {
			l.Add(config.Problem{Key: "ID", Value: config.Redact(id), Reason: "is not a UUID"})
		}
	}
}

// administer makes the RunE of a command that looks at the outbox or mends it: check
// reports what is wrong with the flags, and then do works.
func (a *app) administer(cmd *cobra.Command, check func(l *config.Loaded, args []string), do func(cmd *cobra.Command, s wire.Store, args []string) error) *cobra.Command {
	keys := a.keyFlags(cmd.Flags(), true, "database", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		wire.CheckOneOutbox(l)
		check(l, args)
		if err := l.Err(); err != nil {
			return err
		}
		s, err := wire.OpenStore(cmd.Context(), l.Database, l.Log.Logger(a.stderr))
		if err != nil {
			return err
		}
		defer closeStore(s, &err)
		err = do(cmd, s, args)
		var known outcome
		if errors.As(err, &known) {
			return err
		}
		return wire.DatabaseError(cmd.Name(), l.Database, err)
	}
	return cmd
}

// outcome is why a command fails though the database has answered.
type outcome string

func (o outcome) Error() string { return string(o) }
