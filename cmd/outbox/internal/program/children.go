package program

import (
	"cmp"
	"errors"
	"os/exec"
	"sync"
	"time"
)

const (
	// grace is the time that a process has between SIGTERM and SIGKILL. A worker waits
	// 5 s for handlers that it has cancelled.
	grace = 3 * time.Second

	// outputDelay is how long the output is waited for that others, which the process
	// has started, hold open.
	outputDelay = time.Second
)

var errKilled = errors.New("no program is started any more")

// Children are the processes that run. The zero value is usable.
type Children struct {
	mu      sync.Mutex
	running map[*process]struct{}
	killed  bool
}

// Kill ends all processes at once, with all that they have started, and lets no
// other start.
func (c *Children) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	for p := range c.running {
		killGroup(p.cmd)
	}
}

// process is a program that runs, as the leader of a group of its own.
type process struct {
	cmd      *exec.Cmd
	children *Children

	mu    sync.Mutex
	ended bool        // it is to end
	gone  bool        // it has ended
	last  *time.Timer // to SIGKILL
}

// Start starts cmd as the leader of a process group, and returns what waits for its
// end, which is to be called.
func (c *Children) Start(cmd *exec.Cmd) (wait func() error, err error) {
	p, err := c.start(cmd)
	if err != nil {
		return nil, err
	}
	return p.wait, nil
}

// start starts cmd.
func (c *Children) start(cmd *exec.Cmd) (*process, error) {
	ownGroup(cmd)
	cmd.WaitDelay = cmp.Or(cmd.WaitDelay, outputDelay)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.killed {
		return nil, errKilled
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, children: c}
	if c.running == nil {
		c.running = map[*process]struct{}{}
	}
	c.running[p] = struct{}{}
	return p, nil
}

// end asks the process and all that it has started to end, and makes them after a
// while. It does not wait, and reports whether there is something to end.
func (p *process) end() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended || p.gone {
		return false
	}
	p.ended = true
	terminateGroup(p.cmd)
	p.last = time.AfterFunc(grace, func() { killGroup(p.cmd) })
	return true
}

// wait waits until the process has ended.
func (p *process) wait() error {
	err := p.cmd.Wait()
	p.mu.Lock()
	p.gone = true
	if p.ended {
		p.last.Stop()
		killGroup(p.cmd) // those that did not end with their leader
	}
	p.mu.Unlock()
	p.children.mu.Lock()
	delete(p.children.running, p)
	p.children.mu.Unlock()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}
