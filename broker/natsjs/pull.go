package natsjs

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// A request for messages ends at the server after pullExpires; the
	// consumption asks again. While one waits the server gives a sign of life
	// each pullHeartbeat, and three missing ones mean that it is gone.
	pullExpires   = 30 * time.Second
	pullHeartbeat = 5 * time.Second
)

// waits reports whether the server owes messages or signs of life.
func (c *consumption) waits() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requested > 0
}

// request asks for as many messages as there is room for, but not for a few when
// more are on their way. The caller holds mu.
func (c *consumption) request() {
	room := c.sub.Prefetch - len(c.unsettled) - len(c.buffer) - c.requested
	if c.ending || c.link == nil || room <= 0 || c.requested > 0 && room < max(1, c.sub.Prefetch/4) {
		return
	}
	expires := pullExpires
	if c.link.group != "" {
		// Asking is what keeps the server to this member.
		expires = min(expires, max(c.link.ackWait/3, 100*time.Millisecond))
	}
	body, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
		Group     string        `json:"group,omitempty"`
		Pin       string        `json:"id,omitempty"`
	}{room, expires, min(pullHeartbeat, expires/2), c.link.group, c.pin})
	if err != nil {
		panic(err) // strings and numbers can always be encoded
	}
	subject := fmt.Sprintf("$JS.API.CONSUMER.MSG.NEXT.%s.%s", c.src.stream, c.src.consumer)
	if err := c.link.conn.PublishRequest(subject, c.link.inbox, body); err == nil {
		c.requested += room
		c.link.alive(time.Now())
	}
}

// arrive takes what the server sends: messages, and what became of requests.
func (c *consumption) arrive(l *link, msg *nats.Msg) {
	now := time.Now()
	l.alive(now)
	if !strings.HasPrefix(msg.Reply, "$JS.ACK.") {
		c.status(l, msg)
		return
	}
	d := &delivery{msg: msg, reply: msg.Reply, arrived: now}
	d.position, d.placed = positionOf(msg.Reply)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requested = max(0, c.requested-1)
	if pin := msg.Header[headerPin]; len(pin) > 0 {
		c.pin = pin[0]
	}
	if c.abandoned {
		_ = c.publish(d, nak) // else it comes back after AckWait
		c.unpin()
		return
	}
	if !c.joins(d) {
		c.buffer = append(c.buffer, d)
		if d.known = !c.hasHistory(l, d); !d.known {
			c.look(l, d)
		}
		c.signal()
	}
	c.request()
}

// joins reports whether the message of a delivery is being handled here: then it
// is not passed on twice, and what becomes of the first delivery settles both. The
// server delivers again what it has not heard of for AckWait, be it because the
// connection was lost; and when it starts, what it stored longer ago than that,
// whatever it has heard. Of two deliveries that wait to be passed on the later
// one counts: in between another member may have had the message. The caller
// holds mu.
func (c *consumption) joins(d *delivery) bool {
	if !d.placed || d.sequence > c.newest {
		c.newest = max(c.newest, d.sequence)
		return false
	}
	same := func(other *delivery) bool {
		return other.placed && other.sequence == d.sequence && other.stored.Equal(d.stored)
	}
	for held := range c.unsettled {
		if same(held) && !held.released {
			held.reply = d.reply
			return true
		}
	}
	c.buffer = slices.DeleteFunc(c.buffer, same)
	return false
}

// status takes a message of the server's about a request.
func (c *consumption) status(l *link, msg *nats.Msg) {
	switch code := msg.Header.Get("Status"); code {
	case "100": // a sign of life
	case "423": // the consumer keeps to another member now
		left, err := strconv.Atoi(msg.Header.Get(headerLeft))
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil {
			left = c.requested
		}
		c.pin, c.requested = "", max(0, c.requested-left)
		c.request()
	case "404", "408", "409":
		left, err := strconv.Atoi(msg.Header.Get(headerLeft))
		if err == nil && code == "408" {
			c.mu.Lock()
			c.requested = max(0, c.requested-left)
			c.request()
			c.mu.Unlock()
			return
		}
		fallthrough
	default: // the consumer is gone, or moved, or the request was wrong
		l.fail(errors.New("natsjs: " + code + " " + msg.Header.Get("Description")))
	}
}

// unpin lets the server turn to another member at once. The caller holds mu.
func (c *consumption) unpin() {
	if c.pin == "" || c.link == nil {
		return
	}
	body, err := json.Marshal(struct {
		Group string `json:"group"`
	}{c.link.group})
	if err != nil {
		panic(err) // strings can always be encoded
	}
	_ = c.link.conn.Publish(fmt.Sprintf("$JS.API.CONSUMER.UNPIN.%s.%s", c.src.stream, c.src.consumer), body) // else after AckWait
	c.pin = ""
}
