package testenv

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// The ports given out lie below those that the system gives to outgoing connections, which otherwise could take a
// port while its server restarts.
const (
	firstPort = 20000
	endPort   = 32000
)

// port is a loopback port that no other test binary takes until it is released.
type port struct {
	number int
	lock   *os.File
}

// takePort returns a port on which nobody listens.
func takePort() (*port, error) {
	dir := filepath.Join(os.TempDir(), "outbox-testenv-ports")
	if err := makeDir(dir, 0o777|os.ModeSticky); err != nil {
		return nil, err
	}
	const tries = 200
	for range tries {
		n := firstPort + rand.IntN(endPort-firstPort)
		lock, err := lockFile(filepath.Join(dir, strconv.Itoa(n)), false)
		if err != nil {
			continue
		}
		if l, err := net.Listen("tcp", loopback(n)); err == nil {
			stopListening(l)
			return &port{number: n, lock: lock}, nil
		}
		_ = lock.Close()
	}
	return nil, fmt.Errorf("no free port found in %d to %d", firstPort, endPort)
}

// listen listens on the port. It may have to wait: see stopListening.
func (p *port) listen() (net.Listener, error) {
	const patience = 2 * time.Second
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		l, err := net.Listen("tcp", p.addr())
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return l, err
		}
	}
}

// stopListening closes l so that nobody listens any more. To close it is not enough:
// between its fork and its exec a process that is being started has a copy of it, by
// which the system goes on to accept connections.
func stopListening(l net.Listener) {
	if tcp, ok := l.(*net.TCPListener); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
		}
	}
	_ = l.Close()
}

// addr returns the port with the loopback address.
func (p *port) addr() string { return loopback(p.number) }

// release lets others take the port.
func (p *port) release() { _ = p.lock.Close() }

func loopback(n int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n)) }
