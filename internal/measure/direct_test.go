package measure

import (
	"context"
	"errors"
	"testing"

	"github.com/outbox-go/outbox"
)

// answers is a publisher that answers when it is flushed.
type answers struct {
	sent     int
	greatest int
	waiting  []func(error)
	err      error
}

func (a *answers) Publish(_ context.Context, _ *outbox.Message, done func(error)) {
	a.sent++
	a.waiting = append(a.waiting, done)
	a.greatest = max(a.greatest, len(a.waiting))
}

func (a *answers) Flush() error {
	for _, done := range a.waiting {
		done(a.err)
	}
	a.waiting = nil
	return nil
}

func (a *answers) Close() error { return nil }

func TestDirectKeepsTheWindow(t *testing.T) {
	t.Parallel()
	a := &answers{}
	if err := Direct(t.Context(), a, Load{Messages: 100}, 7); err != nil || a.sent != 100 || len(a.waiting) != 0 || a.greatest != 7 {
		t.Errorf("%v: %d sent, %d at once, %d unanswered", err, a.sent, a.greatest, len(a.waiting))
	}
}

func TestDirectTellsOfRefusals(t *testing.T) {
	t.Parallel()
	if err := Direct(t.Context(), &answers{err: outbox.ErrRefused}, Load{Messages: 3}, 2); !errors.Is(err, outbox.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// elsewhere answers by another goroutine, as brokers' drivers do.
type elsewhere struct{ waiting chan func(error) }

func (e *elsewhere) Publish(_ context.Context, _ *outbox.Message, done func(error)) {
	e.waiting <- done
}
func (e *elsewhere) Close() error { close(e.waiting); return nil }

// BenchmarkDirect is what the limit of a relay spends beside its publisher. Of it the
// payload is made by whatever sends the same messages.
func BenchmarkDirect(b *testing.B) {
	load := Load{Messages: b.N, Keys: 10_000, Payload: 250}
	b.Run("payload", func(b *testing.B) {
		b.ReportAllocs()
		for n := range b.N {
			load.Body(n)
		}
	})
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		e := &elsewhere{make(chan func(error), 1000)}
		defer func() { _ = e.Close() }()
		go func() {
			for done := range e.waiting {
				done(nil)
			}
		}()
		load.Messages = b.N
		if err := Direct(b.Context(), e, load, 1000); err != nil {
			b.Fatal(err)
		}
	})
}
