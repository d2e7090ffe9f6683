package work

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// ChildCommand is the work of a process of this program that is the relay of another's
// run, with the URLs in its environment. It ends with its standard input.
const ChildCommand = "relay"

// Names of the variables of the URLs.
const (
	DatabaseVariable = "PEER_DATABASE_URL"
	BrokerVariable   = "PEER_BROKER_URL"
)

const readyLine = "ready"

// childArgs are the arguments of the process that is the relay of a run.
func childArgs(system System, s *Settings) []string {
	return []string{
		system.Describe().Name, ChildCommand, "--name", s.Name, "--queue-type", string(s.QueueType),
		"--window", strconv.Itoa(s.Window), "--topics", strconv.Itoa(s.Topics),
	}
}

// relay is a running relay, in this process or in one of its own.
type relay struct {
	ended  chan struct{} // closed when the relay has ended, by err
	err    error
	cancel context.CancelFunc
	cmd    *exec.Cmd // nil in this process
}

// startRelay returns when the relay is ready.
func startRelay(ctx context.Context, system System, s *Settings) (*relay, error) {
	ctx, cancel := context.WithCancel(ctx)
	r := &relay{ended: make(chan struct{}), cancel: cancel}
	ready := make(chan struct{})
	if s.Process {
		if err := r.spawn(ctx, system, s, ready); err != nil {
			cancel()
			return nil, err
		}
	} else {
		go func() { r.end(system.Relay(ctx, func() { close(ready) })) }()
	}
	select {
	case <-ready:
		return r, nil
	case <-r.ended:
		cancel()
		return nil, fmt.Errorf("start the relay: %w", errors.Join(errors.New("it has ended"), r.err))
	}
}

func (r *relay) end(err error) {
	r.err = err
	close(r.ended)
}

func (r *relay) spawn(ctx context.Context, system System, s *Settings, ready chan<- struct{}) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	r.cmd = exec.CommandContext(ctx, program, childArgs(system, s)...) //nolint:gosec // this program
	r.cmd.Env = append(os.Environ(), DatabaseVariable+"="+s.DatabaseURL, BrokerVariable+"="+s.BrokerURL)
	r.cmd.Stderr = os.Stderr
	stdin, err := r.cmd.StdinPipe() // the relay ends with this process, however that ends
	if err != nil {
		return err
	}
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	r.cmd.Cancel = stdin.Close
	r.cmd.WaitDelay = time.Minute
	if err := r.cmd.Start(); err != nil {
		return err
	}
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if strings.TrimSpace(lines.Text()) == readyLine {
				close(ready)
				break
			}
		}
		_, _ = io.Copy(io.Discard, stdout)
		err := r.cmd.Wait()
		if ctx.Err() != nil && r.cmd.ProcessState.Success() {
			err = nil
		}
		r.end(err)
	}()
	return nil
}

// Child is the relay of a run in a process of its own, which is this one.
func Child(ctx context.Context, system System) error {
	defer system.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return system.Relay(ctx, func() { fmt.Println(readyLine) })
}

// stop ends the relay, unless it has ended by itself, and waits for it.
func (r *relay) stop() error {
	r.cancel()
	<-r.ended
	return r.err
}

// cpuSeconds returns the time of the relay's process, which has ended; 0 without one.
func (r *relay) cpuSeconds() float64 {
	if r.cmd == nil {
		return 0
	}
	return (r.cmd.ProcessState.UserTime() + r.cmd.ProcessState.SystemTime()).Seconds()
}
