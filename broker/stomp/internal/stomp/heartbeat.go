package stomp

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// tolerance is how many intervals without a heart-beat mean that a peer is gone.
const tolerance = 2

// milliseconds returns d as heart-beat headers have it, rounded up: 0 means none.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// negotiate returns the interval of our heart-beats, and how long the server may be
// silent, each 0 for none. answer is the heart-beat header of CONNECTED.
func negotiate(send, receive time.Duration, answer string) (beatEvery, silence time.Duration, err error) {
	if answer == "" {
		return 0, 0, nil
	}
	x, y, _ := strings.Cut(answer, ",")
	serverSends, ok1 := parseInterval(x)
	serverWants, ok2 := parseInterval(y)
	if !ok1 || !ok2 {
		return 0, 0, protocolError("the heart-beat header of CONNECTED is wrong: %q", excerpt([]byte(answer)))
	}
	return slower(send, serverWants), tolerance * slower(receive, serverSends), nil
}

// slower returns the greater of what one can and the other wants, or 0 if either
// does without.
func slower(a, b time.Duration) time.Duration {
	if a <= 0 || b <= 0 {
		return 0
	}
	return max(a, b)
}

// parseInterval parses milliseconds. What is longer than a day is a day.
func parseInterval(s string) (time.Duration, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > math.MaxInt64 {
		return 0, false
	}
	return min(time.Duration(min(n, 24*3600*1000))*time.Millisecond, 24*time.Hour), true
}

// beat sends heart-beats until the connection ends. It looks twice in an interval
// whether anything was sent, so that no two writes are more than one apart.
func (c *Conn) beat() {
	ticker := time.NewTicker(c.beatEvery / 2)
	defer ticker.Stop()
	for {
		select {
		case <-c.done:
			return
		case <-ticker.C:
		}
		// Who holds the lock is writing.
		if c.sent.Swap(false) || !c.mu.TryLock() {
			continue
		}
		err := c.writeBeat()
		c.mu.Unlock()
		if err != nil {
			return // the reader, and who writes next, are told
		}
	}
}

func (c *Conn) writeBeat() error {
	if err := c.Err(); err != nil {
		return err
	}
	_ = c.w.WriteByte('\n') // Flush returns its error, too
	return c.flush()
}
