package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
)

// run runs the command that args name and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	began := false
	root := a.root()
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(a.stderr, "outbox: %v\n", err)
	var wrong *config.Error
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case !began:
		fmt.Fprintf(a.stderr, "Run '%s --help' for usage.\n", command.CommandPath())
		return exitUsage
	}
	return exitFailure
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "outbox",
		Short: "A transactional outbox: messages that are committed with the data, and relayed to a broker",
		Long: `A transactional outbox: messages that are committed with the data, and relayed to a broker.

Begin with "outbox demo", which needs nothing but this program.

Every key of the configuration can be given by a flag, by a variable, or in the YAML file that
--config or OUTBOX_CONFIG names, where ${NAME} stands for a variable. A flag wins over a variable,
a variable over the file.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		a.demo(), a.migrate(), a.relay(), a.emit(), a.send(), a.subscribe(), a.messages(), a.dead(), a.stats(), a.pause(), a.resume(), a.purge(),
		a.track(), a.untrack(), a.bench(), a.version(),
	)
	return root
}

// noArguments is [cobra.NoArgs] without the argument in its error: behind a flag whose
// value was forgotten, or is a variable that is empty, one can be a URL with a
// password.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s takes no arguments, and %d came: write names and values of flags as --name=value, variables within quotes", cmd.CommandPath(), len(args))
}

// configFlags are the flags of a command that set keys of the configuration.
type configFlags struct {
	app   *app
	flags *pflag.FlagSet
	file  *string
	given map[string][]string
	bench bool // the command is a benchmark
}

// keyFlag is a flag that sets a key. It takes every text: all keys are checked
// together later.
type keyFlag struct {
	key   *config.Key
	given map[string][]string
}

func (f *keyFlag) String() string {
	if f.key == nil { // the zero value, which pflag compares with
		return ""
	}
	return f.key.Default
}
func (f *keyFlag) Type() string { return f.key.Type }

func (f *keyFlag) Set(value string) error {
	if !f.key.List() {
		f.given[f.key.Name] = nil
	}
	f.given[f.key.Name] = append(f.given[f.key.Name], value)
	return nil
}

// keyFlags adds a flag for each key that is one of names or below one of them.
func (a *app) keyFlags(flags *pflag.FlagSet, withVariables bool, names ...string) *configFlags {
	c := &configFlags{app: a, flags: flags, given: map[string][]string{}}
	flags.SortFlags = false
	for _, k := range config.Keys {
		if !k.In(names...) {
			continue
		}
		usage := k.Usage
		if withVariables {
			usage += " [" + k.Env() + "]"
		}
		flags.Var(&keyFlag{key: k, given: c.given}, k.Flag(), usage)
	}
	return c
}

// keysBelow returns the keys below name but for some, for a command that does not heed
// those.
func keysBelow(name string, except ...string) (names []string) {
	for _, k := range config.Keys {
		if rest, ok := strings.CutPrefix(k.Name, name+"."); ok && !slices.Contains(except, rest) {
			names = append(names, k.Name)
		}
	}
	return names
}

// withFile adds the flag that names the file.
func (c *configFlags) withFile() *configFlags {
	c.file = c.flags.String("config", "", "YAML `file` with the configuration [OUTBOX_CONFIG]")
	return c
}

// load reads the configuration: from the flags alone, unless there is one that
// names the file. A benchmark has its variables.
func (c *configFlags) load() *config.Loaded {
	s := config.Sources{Flags: c.given}
	if c.file != nil {
		s.Env = c.app.env
		s.File, s.FileOrigin = *c.file, "flag --config"
		if path, ok := c.app.env("OUTBOX_CONFIG"); ok && s.File == "" {
			s.File, s.FileOrigin = path, "variable OUTBOX_CONFIG"
		}
	}
	if c.bench {
		s.Env, s.EnvPrefix = c.app.benchEnv, benchEnvPrefix
	}
	return config.Load(s)
}
