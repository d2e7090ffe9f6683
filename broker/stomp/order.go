package stomp

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox/broker/stomp/internal/stomp"
)

// RabbitMQ's STOMP knows neither exclusive consumers nor x-single-active-consumer. It
// knows exclusive queues, which belong to one connection and end with it. So the member
// that receives has an exclusive queue, ORDER.<queue>, with the connection that
// receives; to have it is to have the turn. A second one, BOUND.<topics>.<queue>, tells
// the others that the queue is bound by the topics: they cannot do that themselves,
// since in STOMP to bind a queue is to receive from it.

// A member that stands by waits for up to turnPoll before it looks again whether the turn
// is its own. While it does so the wait grows to longTurnPoll: each look is a connection,
// and an error in the broker's log.
const (
	turnPoll     = time.Second
	longTurnPoll = 5 * time.Second
)

// lock returns a frame that takes an exclusive queue for the connection.
func lock(id, queue string) *stomp.Frame {
	return subscribe(id, queuePath(queue), 1, []stomp.Header{{Name: headerExclusive, Value: "true"}, {Name: headerAutoDelete, Value: "true"}})
}

func (c *consumer) orderQueue() string { return orderPrefix + c.queue }

// boundQueue returns the name of the queue that stands for the topics being bound.
func (c *consumer) boundQueue() string {
	topics := slices.Sorted(slices.Values(c.sub.Topics))
	hash := fnv.New64a()
	_, _ = io.WriteString(hash, c.config.Destination+" "+strings.Join(slices.Compact(topics), " "))
	return fmt.Sprintf("%s%016x.%s", boundPrefix, hash.Sum64(), c.queue)
}

// takeOrder returns a connection that has the turn. It waits for it, standing by.
func (c *consumer) takeOrder(ctx context.Context) (*stomp.Conn, error) {
	var idle *standby
	defer func() { idle.close() }()
	for poll := turnPoll; ; {
		conn, err := c.try(ctx, lock(orderID, c.orderQueue()))
		if !errors.Is(err, errLocked) {
			return conn, err
		}
		if idle == nil {
			if idle, err = c.standBy(ctx); err != nil {
				return nil, err
			}
		}
		if !idle.ready {
			if idle.ready, err = c.isBound(ctx); err != nil {
				return nil, err
			}
			if idle.ready {
				c.established = true
				c.ready()
			}
		}
		if err := idle.wait(ctx, poll/2+rand.N(poll/2)); err != nil {
			return nil, err
		}
		if idle.ready {
			poll = min(longTurnPoll, poll*3/2)
		}
	}
}

// isBound reports whether the member that receives has bound the queue by our topics.
func (c *consumer) isBound(ctx context.Context) (bool, error) {
	conn, err := c.try(ctx, subscribe(boundID, plainQueuePath(c.boundQueue()), 1, nil))
	var refusal *stomp.ServerError
	switch {
	case errors.Is(err, errLocked):
		return true, nil
	case errors.As(err, &refusal) && refusal.Message == "not_found":
		return false, nil
	case err == nil:
		_ = conn.Close() // it is nobody's, for the moment
	}
	return false, err
}

// try sends a frame by a new connection, and returns that if the broker agrees.
func (c *consumer) try(ctx context.Context, f *stomp.Frame) (*stomp.Conn, error) {
	conn, err := c.endpoint.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.guard(ctx, conn)()
	if err = conn.Write(f); err == nil {
		err = conn.Flush()
	}
	if err == nil {
		_, err = conn.Read()
	}
	if err != nil {
		_ = conn.Close()
		return nil, c.declareError(err)
	}
	return conn, nil
}

// standby is a connection of a member that stands by. It does nothing but tell when
// the broker is gone.
type standby struct {
	conn  *stomp.Conn
	ready bool // ready was called
	ended chan struct{}
	err   error // valid after ended
}

func (c *consumer) standBy(ctx context.Context) (*standby, error) {
	conn, err := c.endpoint.connect(ctx)
	if err != nil {
		return nil, err
	}
	s := &standby{conn: conn, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		for s.err == nil {
			_, s.err = conn.Read()
		}
	}()
	return s, nil
}

// wait waits for d, and returns an error if the connection or ctx ends.
func (s *standby) wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-s.ended:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *standby) close() {
	if s == nil {
		return
	}
	_ = s.conn.Close()
	<-s.ended
}
