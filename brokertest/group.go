package brokertest

import (
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
)

// group is some members of one queue. What any of them receives comes on one
// channel, so that a test sees who got what in which order.
type group struct {
	env     *env
	members []*consumer
	got     chan arrival
	gone    map[*consumer]bool // what they received is of no interest any more
	put     []arrival          // to come before got
}

// arrival is a message, unsettled, and the member that received it.
type arrival struct {
	*outbox.Received
	by *consumer
}

// group subscribes a member for each subscription.
func (e *env) group(subs ...outbox.Subscription) *group {
	e.Helper()
	g := &group{env: e, got: make(chan arrival, 100_000), gone: map[*consumer]bool{}}
	for _, s := range subs {
		var c *consumer
		known := make(chan struct{})
		c = e.start(s, func(r *outbox.Received) {
			<-known
			g.got <- arrival{r, c}
		})
		close(known)
		c.waitReady()
		g.members = append(g.members, c)
	}
	return g
}

// next returns the next arrival at a member that is not gone.
func (g *group) next() arrival {
	g.env.Helper()
	for len(g.put) > 0 {
		a := g.put[0]
		g.put = g.put[1:]
		if !g.gone[a.by] {
			return a
		}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case a := <-g.got:
			if !g.gone[a.by] {
				return a
			}
		case <-timer.C:
			g.env.Fatalf("waited %s in vain for a message at any member%s", patience, g.returned())
		}
	}
}

// returned tells which members have returned by themselves.
func (g *group) returned() string {
	var text string
	for i, c := range g.members {
		select {
		case <-c.ended:
			text += fmt.Sprintf("; member %d returned %v", i, c.err)
		default:
		}
	}
	return text
}

// close closes a member and everything unsettled with it.
func (g *group) close(c *consumer) {
	g.env.Helper()
	c.close()
	wait(g.env, c.ended, "Subscribe to return after Close")
	g.gone[c] = true
}

// settleEnd settles all that a member that is to end has been passed on, in this
// order, until Subscribe returns.
func (g *group) settleEnd(c *consumer, how outbox.Outcome) (settled int) {
	g.env.Helper()
	var others []arrival
	look := func(a arrival) {
		if a.by != c {
			others = append(others, a)
			return
		}
		g.env.settle(a.Received, how)
		settled++
	}
	for _, a := range g.put {
		look(a)
	}
	for ended := c.ended; ; {
		select {
		case a := <-g.got:
			look(a)
		case <-ended:
			g.put = others
			c.stop()
			return settled
		case <-time.After(patience):
			g.env.Fatalf("Subscribe did not return in %s after all was settled", patience)
		}
	}
}
