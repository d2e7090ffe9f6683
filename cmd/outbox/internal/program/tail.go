package program

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// maxReason bounds what of a program's last line goes into a reason.
const maxReason = 500

// tail passes on what is written, and remembers the last line that is not empty.
type tail struct {
	to io.Writer

	mu   sync.Mutex
	line []byte // the last whole one
	rest []byte // the beginning of the one that is being written
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	for piece := range bytes.Lines(b) {
		t.rest = append(t.rest, piece[:min(len(piece), maxReason-min(len(t.rest), maxReason))]...)
		if piece[len(piece)-1] == '\n' {
			t.take()
		}
	}
	t.mu.Unlock()
	if t.to == nil {
		return len(b), nil
	}
	_, _ = t.to.Write(b) // a terminal that is gone must not end the program
	return len(b), nil
}

func (t *tail) take() {
	if rest := bytes.TrimSpace(t.rest); len(rest) > 0 {
		t.line = append(t.line[:0], rest...)
	}
	t.rest = t.rest[:0]
}

// forget forgets what was written so far.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line, t.rest = t.line[:0], t.rest[:0]
}

// because adds the last line to err.
func (t *tail) because(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.take()
	if len(t.line) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, t.line)
}
