package rabbitmq

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

func TestSocketKeepsOrderAndFlushesAtClose(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	s := newSocket(ours)
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(theirs)
		got <- b
	}()
	var want []byte
	for i := range 100_000 {
		b := []byte{byte(i), byte(i >> 8), byte(i >> 16)}
		want = append(want, b...)
		if n, err := s.Write(b); n != 3 || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("%d bytes arrived of %d, or others", len(b), len(want))
	}
}

func TestSocketForgetsGreatBuffers(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	s := newSocket(ours)
	for _, size := range []int64{16 * socketBuffer, 1} {
		_, _ = s.Write(make([]byte, size))
		if _, err := io.CopyN(io.Discard, theirs, size); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	kept := cap(s.pending) // what the great message was written from, when the second was taken
	s.mu.Unlock()
	if kept > 2*socketBuffer {
		t.Errorf("a buffer of %d bytes is kept", kept)
	}
	s.abort()
}

func TestSocketIsFreedByAbort(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe() // nobody reads
	s := newSocket(ours)
	stuck := make(chan struct{})
	go func() {
		defer close(stuck)
		for range 3 {
			_, _ = s.Write(make([]byte, socketBuffer))
		}
	}()
	s.abort()
	<-stuck
	if _, err := theirs.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestSocketCloseDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	t.Parallel()
	ours, _ := net.Pipe()
	s := newSocket(ours)
	_, _ = s.Write([]byte("x"))
	_ = s.Close()
	_ = s.Close()
	if n, err := s.Write([]byte("x")); n != 1 || err != nil {
		t.Error("Write after Close:", n, err)
	}
}
