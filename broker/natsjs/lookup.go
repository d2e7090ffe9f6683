package natsjs

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// lookupPatience is how long a message whose history is not known yet keeps back
// those behind it. It is a round trip as a rule, and only while the bucket does
// not answer, but the stream does, is it ever reached.
const lookupPatience = time.Second

// hasHistory reports whether the bucket may have an entry for what has just
// arrived. A message that comes for the first time has none; but a server that
// was killed may have forgotten that it has delivered one, which is why those
// count too that are not after the last that had an entry when we connected.
func (c *consumption) hasHistory(l *link, d *delivery) bool {
	return d.placed && !c.src.dead && (d.times > 1 || d.sequence <= l.retried)
}

// look asks the bucket for the entry of a message. The caller holds mu. When the
// question cannot be sent the connection has ended, and it is asked on the next.
func (c *consumption) look(l *link, d *delivery) {
	body, err := json.Marshal(struct {
		Subject string `json:"last_by_subj"`
	}{c.keyOf(d.position)})
	if err != nil {
		panic(err) // strings can always be encoded
	}
	l.lastLook++
	l.looks[l.lastLook] = d
	d.asked = time.Now()
	// Not a direct get: a replica may answer that, which does not know yet what
	// was put a moment ago.
	subject := "$JS.API.STREAM.MSG.GET." + c.broker.bucketStream()
	_ = l.conn.PublishRequest(subject, replySubject(l.lookInbox, l.lastLook), body)
}

// found takes the answer to a look. One that comes late is as good as any: it was
// asked after the message was delivered.
func (c *consumption) found(l *link, msg *nats.Msg) {
	n, ok := numberOf(msg.Subject, l.lookInbox)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := l.looks[n]
	delete(l.looks, n)
	// A server that shuts down says so first, and then that it has no entry.
	if d == nil || d.known || l.failed.Load() || c.link != l {
		return
	}
	e, err := readEntry(msg.Data, d.position, l.created)
	switch {
	case errors.Is(err, errNoBucket) && c.broker.config.Topology == Declare:
		l.fail(err) // it is made again with the next connection
		return
	case errors.Is(err, errNoBucket):
		if !l.lookWarned {
			l.lookWarned = true
			c.log.Warn("retries are not remembered", "error", err)
		}
	case err != nil:
		if !l.lookWarned {
			l.lookWarned = true
			c.log.Warn("retry not looked up", "error", err)
		}
		d.asked = time.Time{} // soon again
		return
	}
	d.known, d.entry = true, e
	c.signal()
}

// lookAgain asks again what was not answered, or not well, and lets messages pass
// those that wait for an answer too long.
func (c *consumption) lookAgain(l *link, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.buffer {
		if d.known {
			continue
		}
		if now.Sub(d.asked) >= c.broker.config.ConnectTimeout {
			c.look(l, d)
		}
		if !d.late && now.Sub(d.arrived) >= lookupPatience {
			d.late = true
			c.signal()
		}
	}
}
