package rabbitmq

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// readBuffer is how much is read at once: a system call costs as much as some
	// messages, and the library reads 4 KiB.
	readBuffer = 64 << 10
	// greatestFrame is what the library lets the broker send.
	greatestFrame = 128 << 10
	// aliveInterval is the shortest time after which the library is told again that the broker lives.
	aliveInterval = 100 * time.Millisecond
)

// interceptor gets what a broker sends before the library does. It is called by one
// goroutine, which reads nothing meanwhile.
type interceptor interface {
	// take reports whether f was for it. If not, the library has dealt with f before
	// the next call.
	take(f frame) bool
	// rest is called after some calls of take, when nothing more is at hand.
	rest()
}

// heartbeat is a frame by which the library finds that the broker lives.
var heartbeat = []byte{8, 0, 0, 0, 0, 0, 0, frameEnd}

// tap reads frames from a connection and hands them to an interceptor or, by Read,
// to the library: one with each call, since it deals with a frame before it reads on.
type tap struct {
	source io.Reader
	to     atomic.Pointer[interceptor]
	busy   sync.Mutex // held while the interceptor works

	storage []byte
	buffer  []byte // of it, what is read and not handed out
	pass    uint64 // as many bytes are for the library
	raw     bool   // all is: these are no frames, and it finds that itself
	quiet   bool   // the library has got nothing since a frame was taken
	alive   []byte // the rest of a heartbeat for the library
	told    time.Time
}

func newTap(source io.Reader) *tap {
	return &tap{source: source, storage: make([]byte, readBuffer)}
}

// intercept has i get all frames from now on.
func (t *tap) intercept(i interceptor) { t.to.Store(&i) }

// settle returns when the interceptor does not work any more on what it has taken.
func (t *tap) settle() {
	t.busy.Lock()
	t.busy.Unlock() //nolint:staticcheck // waiting is all
}

// Read implements [io.Reader] for the library.
func (t *tap) Read(b []byte) (int, error) {
	for {
		if n := t.handOut(b); n > 0 {
			return n, nil
		}
		t.distribute()
		if t.pass > 0 || t.raw && len(t.buffer) > 0 || t.stillAlive() {
			continue
		}
		if err := t.fill(); err != nil {
			return 0, err
		}
	}
}

// handOut copies to b what is for the library.
func (t *tap) handOut(b []byte) int {
	if len(t.alive) > 0 {
		n := copy(b, t.alive)
		t.alive = t.alive[n:]
		return n
	}
	part := t.buffer
	if !t.raw && uint64(len(part)) > t.pass {
		part = part[:t.pass]
	}
	n := copy(b, part)
	t.buffer = t.buffer[n:]
	if !t.raw {
		t.pass -= uint64(n)
	}
	return n
}

// distribute hands frames to the interceptor until one is for the library, or there
// is no whole one.
func (t *tap) distribute() {
	t.busy.Lock()
	defer t.busy.Unlock()
	i, taken := t.to.Load(), false
	for t.pass == 0 && !t.raw {
		f, size := t.first()
		if size == 0 {
			break
		}
		if i == nil || !(*i).take(f) {
			t.pass, t.quiet = size, false
			break
		}
		t.buffer = t.buffer[size:]
		taken, t.quiet = true, true
	}
	if taken {
		(*i).rest()
	}
}

// first returns the frame that the buffer begins with, and its size; 0 if it is not
// there as a whole.
func (t *tap) first() (frame, uint64) {
	if len(t.buffer) < frameHead {
		return frame{}, 0
	}
	length := uint64(binary.BigEndian.Uint32(t.buffer[3:]))
	if length > greatestFrame {
		t.raw = true
		return frame{}, 0
	}
	size := frameOverhead + length
	if uint64(len(t.buffer)) < size {
		return frame{}, 0
	}
	if t.buffer[size-1] != frameEnd {
		t.raw = true
		return frame{}, 0
	}
	return frame{
		kind: t.buffer[0], channel: binary.BigEndian.Uint16(t.buffer[1:]),
		payload: t.buffer[frameHead : size-1],
	}, size
}

// stillAlive reports whether the library is to get a heartbeat: it takes a broker
// for dead from which it gets nothing, and a busy broker sends none.
func (t *tap) stillAlive() bool {
	if !t.quiet {
		return false
	}
	now := time.Now()
	if now.Sub(t.told) < aliveInterval {
		return false
	}
	t.told, t.quiet, t.alive = now, false, heartbeat
	return true
}

// fill reads more.
func (t *tap) fill() error {
	if len(t.buffer) == len(t.storage) {
		t.storage = make([]byte, 2*len(t.storage))
	}
	part := copy(t.storage, t.buffer)
	n, err := t.source.Read(t.storage[part:])
	t.buffer = t.storage[:part+n]
	if n > 0 {
		return nil // the error comes again
	}
	return err
}
