// Package program has programs in any language handle messages: a process for each
// message, or a few that run on and speak lines of JSON.
package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"

	"github.com/outbox-go/outbox/worker"
)

// ExitReject is the exit code by which a program refuses a message for good:
// EX_DATAERR of sysexits.h.
const ExitReject = 65

// Config says what is run. Path and Children are required.
type Config struct {
	Path     string
	Args     []string
	Env      []string // of the processes, beside what tells of the message
	Children *Children

	// Stdout gets the standard output of a process for one message, Stderr the
	// standard error of all.
	Stdout, Stderr io.Writer

	// Logger gets what is wrong with programs that run on.
	Logger *slog.Logger
}

// Environ returns those of variables that a program may see: not the ones of this
// program, which have its passwords.
func Environ(variables []string) (rest []string) {
	for _, v := range variables {
		if !strings.HasPrefix(v, "OUTBOX_") {
			rest = append(rest, v)
		}
	}
	return rest
}

// Handle runs the program for a message: with the payload on its standard input, and
// all else in variables. Its exit code says what becomes of the message: 0 that it is
// done, [ExitReject] that it is never to be tried again, any other, or a signal, that
// it failed. When ctx ends, the process and all that it has started are ended.
func (c *Config) Handle(ctx context.Context, d *worker.Delivery[[]byte]) error {
	said := &tail{to: c.Stderr}
	cmd := c.command(said)
	cmd.Env = append(cmd.Env, variables(d)...)
	cmd.Stdin = bytes.NewReader(d.Payload)
	cmd.Stdout = c.Stdout
	p, err := c.Children.start(cmd)
	if err != nil {
		return fmt.Errorf("start the program: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { p.end() })
	defer stop()
	if err = p.wait(); err == nil {
		return nil
	}
	reason := said.because(err)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == ExitReject {
		return worker.Abort(reason)
	}
	return reason
}

func (c *Config) command(stderr io.Writer) *exec.Cmd {
	cmd := exec.Command(c.Path, c.Args...) //nolint:noctx // its group is ended, not it alone
	cmd.Env = append([]string{}, c.Env...) // not nil, which would be all of ours
	cmd.Stderr = stderr
	return cmd
}
