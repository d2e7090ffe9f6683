package program

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/worker"
)

// A program that ends is started again after the first of these, and after twice the
// time each time that it ends without an answer.
const (
	minRestart = 100 * time.Millisecond
	maxRestart = 30 * time.Second
)

// Lines are processes that run on: each gets messages as lines on its standard input,
// several before the first is answered, and answers by lines on its standard output,
// in any order. Make it with [StartLines].
//
// A process that ends fails the messages that it has not answered, and is started
// again. One that does not answer a message before the context of that ends is ended.
type Lines struct {
	config  *Config
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex // guards what follows, and the calls of the speakers
	speakers []*speaker
	changed  chan struct{} // closed when there is another speaker
}

// speaker is a process that runs.
type speaker struct {
	process *process
	said    *tail // on standard error, since it has answered a message
	in      io.WriteCloser
	writing sync.Mutex
	calls   map[string]*call // unanswered, by the id of the message
	spoke   bool             // it has answered a message
	faults  int              // how many answers could not be used
	leaving bool             // it is to end, and gets no message any more
}

// call is a message that a process has.
type call struct {
	done    chan struct{}
	outcome error // once done
}

// StartLines starts that many processes, and each again that ends, until Close.
func StartLines(c *Config, processes int) *Lines {
	ctx, stop := context.WithCancel(context.Background())
	l := &Lines{config: c, stop: stop, changed: make(chan struct{})}
	for range processes {
		l.running.Go(func() { l.keep(ctx) })
	}
	return l
}

// Close closes the standard input of the processes, which have nothing to do any
// more, and waits for their end; those that do not end by themselves are ended.
func (l *Lines) Close() {
	l.stop()
	l.running.Wait()
}

// Handle gives a message to the process that has the fewest, and waits for the
// answer. A message whose id is with a process already waits for that one. One whose
// id is empty, or not UTF-8 and so nothing that JSON can have, gets another.
func (l *Lines) Handle(ctx context.Context, d *worker.Delivery[[]byte]) error {
	id := d.ID
	if id == "" || !utf8.ValidString(id) {
		id = uuid.NewString()
	}
	line, err := encode(id, d)
	if err != nil {
		return err
	}
	for {
		t := l.take(id)
		if t.speaker != nil {
			return l.ask(ctx, t.speaker, t.call, line)
		}
		select {
		case <-t.wait:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", t.reason, context.Cause(ctx))
		}
	}
}

// taken is the process that was chosen for a message, with the call, or what to wait
// for, and why.
type taken struct {
	speaker *speaker
	call    *call
	wait    <-chan struct{}
	reason  string
}

// take chooses the process for a message.
func (l *Lines) take(id string) taken {
	l.mu.Lock()
	defer l.mu.Unlock()
	var best *speaker
	for _, s := range l.speakers {
		if c := s.calls[id]; c != nil {
			return taken{wait: c.done, reason: "another delivery of it is still being handled"}
		}
		if !s.leaving && (best == nil || len(s.calls) < len(best.calls)) {
			best = s
		}
	}
	if best == nil {
		return taken{wait: l.changed, reason: "no process was there to take it"}
	}
	c := &call{done: make(chan struct{})}
	best.calls[id] = c
	return taken{speaker: best, call: c}
}

// ask writes the line of a message and waits for its answer, which the end of the
// process is, too.
func (l *Lines) ask(ctx context.Context, s *speaker, c *call, line []byte) error {
	defer context.AfterFunc(ctx, func() {
		l.config.Logger.Warn("ending a program that has not answered", "pid", s.process.cmd.Process.Pid, "reason", context.Cause(ctx))
		l.end(s)
	})()
	s.writing.Lock()
	_, err := s.in.Write(line)
	s.writing.Unlock()
	if err != nil {
		l.end(s) // it reads no more
	}
	<-c.done
	return c.outcome
}

// end ends a process, which then fails what it does not answer meanwhile.
func (l *Lines) end(s *speaker) {
	l.mu.Lock()
	s.leaving = true
	l.mu.Unlock()
	s.process.end()
}

// keep runs one process after another until ctx ends.
func (l *Lines) keep(ctx context.Context) {
	for pause := minRestart; ctx.Err() == nil; pause = min(2*pause, maxRestart) {
		spoke, err := l.run(ctx)
		if ctx.Err() != nil {
			return
		}
		if spoke {
			pause = minRestart
		}
		l.config.Logger.Warn("program ended", "reason", err, "restart_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

var errEnded = errors.New("it ended by itself")

// run runs one process until it ends, and says why, and whether it has answered
// anything.
func (l *Lines) run(ctx context.Context) (spoke bool, err error) {
	s := &speaker{calls: map[string]*call{}, said: &tail{to: l.config.Stderr}}
	cmd := l.config.command(s.said)
	cmd.Stdout = &lineWriter{take: func(line []byte) { l.answered(s, line) }, ended: func() { l.silent(s) }}
	if s.in, err = cmd.StdinPipe(); err != nil {
		return false, err
	}
	if err = l.start(s, cmd); err != nil {
		return false, err
	}
	defer context.AfterFunc(ctx, func() {
		_ = s.in.Close()
		time.AfterFunc(grace, func() { s.process.end() }) // does nothing when it has ended
	})()
	if err = s.process.wait(); err == nil {
		err = errEnded
	}
	err = s.said.because(err)
	if n := l.remove(s, fmt.Errorf("the program ended without an answer: %w", err)); n > 0 {
		l.config.Logger.Warn("program ended without answers", "messages", n)
	}
	return s.spoke, err
}

// start starts the process. It is among the others before it can be heard.
func (l *Lines) start(s *speaker, cmd *exec.Cmd) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.process, err = l.config.Children.start(cmd); err != nil {
		return err
	}
	l.speakers = append(l.speakers, s)
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// silent ends a process that can answer no more, unless that is since it ends.
func (l *Lines) silent(s *speaker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.leaving = true
	time.AfterFunc(outputDelay, func() {
		if s.process.end() {
			l.config.Logger.Warn("ending a program that has closed its standard output", "pid", s.process.cmd.Process.Pid)
		}
	})
}

// remove fails the messages that are unanswered, and returns how many those are.
func (l *Lines) remove(s *speaker, err error) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.speakers {
		if other == s {
			l.speakers = append(l.speakers[:i:i], l.speakers[i+1:]...)
			break
		}
	}
	for _, c := range s.calls {
		c.outcome = err
		close(c.done)
	}
	return len(s.calls)
}

// answered takes a line of the process's.
func (l *Lines) answered(s *speaker, line []byte) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	id, outcome, fault := parseAnswer(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	var c *call
	if id != nil {
		c = s.calls[*id]
	}
	switch {
	case fault == nil && c == nil:
		fault = errors.New("is for a message that it does not have")
	case fault != nil && c != nil:
		outcome = badAnswer(fault)
	}
	if fault != nil {
		l.complain(s, id, fault)
	}
	if c != nil {
		delete(s.calls, *id)
		s.spoke = s.spoke || fault == nil
		s.said.forget()
		c.outcome = outcome
		close(c.done)
	}
}

// complain logs an answer that cannot be used: of a process the first, second, fourth
// and so on, since one that writes other things there may write a lot of them.
func (l *Lines) complain(s *speaker, id *string, fault error) {
	if s.faults++; s.faults&(s.faults-1) != 0 {
		return
	}
	var of string
	if id != nil {
		of = bounded(*id)
	}
	l.config.Logger.Warn("answer of the program not understood", "pid", s.process.cmd.Process.Pid, "id", of, "fault", fault, "times", s.faults)
}

// lineWriter takes what is written apart. Of a line that is too long the beginning
// counts, with one byte too many.
type lineWriter struct {
	take  func(line []byte)
	ended func() // there will be no more
	line  []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	for piece := range bytes.Lines(b) {
		end := piece[len(piece)-1] == '\n'
		piece = bytes.TrimSuffix(piece, []byte("\n"))
		w.line = append(w.line, piece[:min(len(piece), maxAnswer+1-len(w.line))]...)
		if end {
			w.take(w.line)
			w.line = w.line[:0]
		}
	}
	return len(b), nil
}

// ReadFrom is what os/exec copies the output by: so its end is noticed, and the last
// line counts without its line feed.
func (w *lineWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(struct{ io.Writer }{w}, r)
	if len(w.line) > 0 {
		w.take(w.line)
	}
	w.ended()
	return n, err
}
