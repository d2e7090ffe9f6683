// Outbox is the program of the transactional outbox: it makes the tables, emits,
// relays messages to a broker, and shows on real servers that none is lost.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/program"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2 // wrong usage or configuration; nothing was done
)

// sameSignal is the time within which a second signal counts as the first.
const sameSignal = 100 * time.Millisecond

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(signals, syscall.SIGHUP)
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.LookupEnv, environ: os.Environ(), setMemoryLimit: debug.SetMemoryLimit}
	go func() {
		cancel(stopped{<-signals})
		// Some send one signal twice: to the process and to its group.
		time.Sleep(sameSignal)
		for len(signals) > 0 {
			<-signals
		}
		fmt.Fprintf(os.Stderr, "outbox: ended at once by a second signal: %v\n", <-signals)
		a.children.Kill()
		os.Exit(exitFailure)
	}()
	os.Exit(a.run(ctx, os.Args[1:]))
}

// stopped is the reason of a context that a signal has ended.
type stopped struct {
	os.Signal
}

func (s stopped) Error() string { return "stopped by signal: " + s.String() }

// app is what the commands have of the world.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(name string) (string, bool)
	environ        []string                // all that env knows
	children       program.Children        // what was started
	setMemoryLimit func(bytes int64) int64 // nil where the process is not the app's own
}
