package measure

import (
	"context"
	"errors"

	"github.com/outbox-go/outbox"
)

// Direct publishes messages from memory as fast as the publisher answers, with at most
// window of them unanswered: the traffic of a drain without its database, which is the
// limit of what a relay can reach. It returns when all are answered.
func Direct(ctx context.Context, p outbox.Publisher, load Load, window int) error {
	free := make(chan struct{}, window)
	failed := make(chan error, 1)
	flusher, _ := p.(outbox.Flusher)
	done := func(err error) {
		if err != nil {
			select {
			case failed <- err:
			default:
			}
		}
		<-free
	}
	take := func() {
		select {
		case free <- struct{}{}:
		default:
			if flusher != nil {
				_ = flusher.Flush() // it answers its messages, with what is wrong
			}
			free <- struct{}{}
		}
	}
	for n := range load.Messages {
		if err := ctx.Err(); err != nil {
			return err
		}
		m := load.Message(n)
		take()
		p.Publish(ctx, &m, done)
	}
	for range window {
		take()
	}
	select {
	case err := <-failed:
		return errors.Join(errors.New("a message was not taken"), err)
	default:
		return nil
	}
}
