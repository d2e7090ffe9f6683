package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/program"
	"github.com/outbox-go/outbox/internal/measure"
)

// Process says how to run `outbox relay`.
type Process struct {
	Executable string

	// Environ is the environment, and Keys are values of keys of the configuration
	// that are added to it. Variables of the program are taken out of it first.
	Environ []string
	Keys    map[string]string

	Stderr io.Writer

	// Children are where the processes are ended at once, should this one be.
	Children *program.Children
}

// children are relays that run in processes of their own.
type children struct {
	Process
	*drain
	cancel  context.CancelFunc
	running []*child
}

// child is a process that runs.
type child struct {
	cmd   *exec.Cmd
	ended chan error
}

// environment returns that of the processes. Other than arguments, others cannot see
// it, and it has passwords.
func (c *children) environment() (list []string) {
	for _, variable := range c.Environ {
		if !strings.HasPrefix(variable, "OUTBOX_") {
			list = append(list, variable)
		}
	}
	own := map[string]string{
		"database.url": c.database.Config.URL, "database.schema": c.database.Config.Schema,
		"broker.url": c.broker.URL, "broker.exchange": c.broker.Exchange,
		"broker.stream": c.broker.Stream, "broker.subject_prefix": c.broker.SubjectPrefix,
	}
	for _, key := range config.Keys {
		value, ok := own[key.Name]
		if !ok {
			value, ok = c.Keys[key.Name]
		}
		if ok && value != "" {
			list = append(list, key.Env()+"="+value)
		}
	}
	return list
}

// processGrace is the time that a relay has to stop, which is more than it takes.
const processGrace = 20 * time.Second

func (c *children) start(ctx context.Context) error {
	environment := c.environment()
	ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for range c.Relays {
		one := &child{cmd: exec.CommandContext(ctx, c.Executable, "relay"), ended: make(chan error, 1)} //nolint:gosec // this program itself
		one.cmd.Env, one.cmd.Stderr, one.cmd.WaitDelay = environment, c.Stderr, processGrace
		one.cmd.Cancel = func() error { return one.cmd.Process.Signal(syscall.SIGTERM) }
		endWithThis(one.cmd)
		wait, err := c.Children.Start(one.cmd)
		if err != nil {
			return fmt.Errorf("start a relay: %w", err)
		}
		c.running = append(c.running, one)
		go func() {
			err := wait()
			if ctx.Err() == nil {
				c.fail(errors.Join(errors.New("a relay's process has ended"), err))
			}
			one.ended <- err
		}()
	}
	return nil
}

func (c *children) sent(context.Context) error {
	return errors.New("whether relays in other processes have sent all is not known")
}

func (c *children) used() (all measure.Usage) {
	for _, one := range c.running {
		usage := measure.UsageOf(one.cmd.Process.Pid)
		all.CPU += usage.CPU
		all.PeakRSS = max(all.PeakRSS, usage.PeakRSS)
	}
	return all
}

// stop lets the relays settle what they have sent.
func (c *children) stop() error {
	if c.cancel == nil {
		return nil
	}
	c.cancel()
	var errs []error
	for _, one := range c.running {
		if err := <-one.ended; err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("a relay's process: %w", err))
		}
	}
	return errors.Join(errs...)
}
