// Package scratch gives a run what it needs of its own on the servers that it is
// pointed at, or servers inside this process, and removes all of it afterwards.
package scratch

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"time"
)

// Scratch is what a run has of its own. It is for one goroutine.
type Scratch struct {
	// Name is that of the schema, the exchange, the stream and the queue, a new one
	// for each run. Dir is a temporary folder.
	Name string
	Dir  string

	databases int
	removals  []func(context.Context) error
}

// New returns a scratch whose name begins with prefix. It ends with [Scratch.Remove].
func New(prefix string) (*Scratch, error) {
	name := prefix + "_" + strings.ToLower(rand.Text()[:10])
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return nil, err
	}
	s := &Scratch{Name: name, Dir: dir}
	s.onRemove(func(context.Context) error { return os.RemoveAll(dir) })
	return s, nil
}

func (s *Scratch) onRemove(f func(context.Context) error) { s.removals = append(s.removals, f) }

// Remove removes all that s has made, what came last first, also when ctx has ended.
func (s *Scratch) Remove(ctx context.Context) error {
	var errs []error
	for _, f := range slices.Backward(s.removals) {
		errs = append(errs, Finally(ctx, f))
	}
	s.removals = nil
	return errors.Join(errs...)
}

// finallyTimeout bounds each thing that is done after the end.
const finallyTimeout = 20 * time.Second

// Finally calls f, which has something to do at the end of a run, also when ctx has
// ended. Its time is 20 seconds.
func Finally(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finallyTimeout)
	defer cancel()
	return f(ctx)
}
