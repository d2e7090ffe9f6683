package stomp

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestHeartbeatsAreNegotiated(t *testing.T) {
	t.Parallel()
	const s = time.Second
	for _, test := range []struct {
		send, receive    time.Duration
		answer           string
		wantBeat, wantIn time.Duration
	}{
		{10 * s, 10 * s, "", 0, 0},
		{10 * s, 10 * s, "0,0", 0, 0},
		{10 * s, 10 * s, "10000,10000", 10 * s, 20 * s},
		{10 * s, 10 * s, "20000,30000", 30 * s, 40 * s},
		{10 * s, 20 * s, "1000,1000", 10 * s, 40 * s},
		{0, 10 * s, "1000,1000", 0, 20 * s},
		{10 * s, 0, "1000,1000", 10 * s, 0},
		{10 * s, 10 * s, "0,1000", 10 * s, 0},
		{10 * s, 10 * s, "1000,0", 0, 20 * s},
		{10 * s, 10 * s, "18446744073709551615,9999999999999", 0, 0},
		{10 * s, 10 * s, "9223372036854775807,9999999999999", 24 * time.Hour, 48 * time.Hour},
	} {
		beat, silence, err := negotiate(test.send, test.receive, test.answer)
		if strings.HasPrefix(test.answer, "184") {
			if err == nil {
				t.Errorf("%q is accepted", test.answer)
			}
			continue
		}
		if beat != test.wantBeat || silence != test.wantIn || err != nil {
			t.Errorf("%v,%v answered by %q: %v, %v, %v; want %v, %v",
				test.send, test.receive, test.answer, beat, silence, err, test.wantBeat, test.wantIn)
		}
	}
}

func TestHeartbeatsAreOffered(t *testing.T) {
	t.Parallel()
	offered := make(chan string, 1)
	addr := serve(t, func(p *peer) {
		value, _ := p.greet("").Get("heart-beat")
		offered <- value
	})
	_ = dial(t, &Config{Addr: addr, Send: 1500*time.Millisecond + 1, Receive: time.Microsecond})
	if got := <-offered; got != "1501,1" {
		t.Errorf("offered %s, want 1501,1", got)
	}
}

// bubble runs test with an open connection whose peer has greeted by the interval of
// heart-beats, 10 s both ways, in the time of a bubble.
func bubble(t *testing.T, test func(t *testing.T, c *Conn, p *peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		p := newPeer(theirs)
		greeted := make(chan struct{})
		go func() {
			p.greet("heart-beat:10000,10000\n")
			close(greeted)
		}()
		c, err := openWithin(t, ours, &Config{Send: 10 * time.Second, Receive: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		<-greeted
		test(t, c, p)
		_ = c.Close()
		_ = p.Close()
	})
}

func TestHeartbeatsAreSentWhenNothingElseIs(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, c *Conn, p *peer) {
		last, buffer := time.Now(), make([]byte, 1)
		for range 100 {
			if _, err := p.Read(buffer); err != nil || buffer[0] != '\n' {
				t.Fatalf("got %q, %v, want a heart-beat", buffer, err)
			}
			if passed := time.Since(last); passed > 10*time.Second || passed < 5*time.Second {
				t.Fatalf("a heart-beat came after %v", passed)
			}
			last = time.Now()
		}
	})
}

func TestFramesTakeThePlaceOfHeartbeats(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, c *Conn, p *peer) {
		go func() {
			for range 100 {
				time.Sleep(3 * time.Second)
				if c.Write(&Frame{Command: Ack}) != nil || c.Flush() != nil {
					return
				}
			}
			_ = c.Close()
		}()
		stream, _ := io.ReadAll(p)
		if want := strings.Repeat("ACK\ncontent-length:0\n\n\x00", 100); string(stream) != want {
			t.Errorf("got %q, want 100 frames and no heart-beat", stream)
		}
	})
}

func TestHeartbeatSendsWhatWasNotFlushed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, c *Conn, p *peer) {
		if err := c.Write(&Frame{Command: Ack}); err != nil {
			t.Fatal(err)
		}
		if f := p.next(); f == nil || f.Command != Ack {
			t.Errorf("got %v, want the frame", f)
		}
	})
}

func TestSilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "RECEIPT\n\n\x00", "\n", "MESSAGE\na:b\ncontent-length:9\n\nhalf", "MESS"} {
		bubble(t, func(t *testing.T, c *Conn, p *peer) {
			go p.wait() // our heart-beats
			began, want := time.Now(), 20*time.Second
			if before != "" {
				want += 15 * time.Second
				go func() {
					time.Sleep(15 * time.Second)
					p.say(before)
				}()
			}
			err := readToEnd(c)
			if !errors.Is(err, ErrSilent) || !strings.Contains(err.Error(), "nothing came for 20s") {
				t.Errorf("after %q: %v, want %v", before, err, ErrSilent)
			}
			if passed := time.Since(began); passed != want {
				t.Errorf("after %q: it was given up after %v, want %v", before, passed, want)
			}
			if again := c.Write(&Frame{Command: Ack}); !errors.Is(again, ErrSilent) {
				t.Errorf("Write returns %v", again)
			}
		})
	}
}

func TestSilentServerHoldsUpNoWriter(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, c *Conn, p *peer) {
		began := time.Now()
		written := make(chan error, 1)
		go func() { written <- c.Write(&Frame{Command: Send, Body: make([]byte, 1<<20)}) }()
		err := readToEnd(c)
		if again := <-written; !errors.Is(err, ErrSilent) || !errors.Is(again, ErrSilent) {
			t.Errorf("Read returns %v, Write %v, want %v", err, again, ErrSilent)
		}
		if passed := time.Since(began); passed != 20*time.Second {
			t.Errorf("the writer was held up for %v", passed)
		}
	})
}

func TestHeartbeatsOfTheServerKeepTheConnection(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, c *Conn, p *peer) {
		go p.wait()
		go func() {
			for range 100 {
				time.Sleep(19 * time.Second)
				p.say("\n")
			}
			p.say("RECEIPT\nreceipt-id:1\n\n\x00")
		}()
		if f, err := c.Read(); err != nil || f.Command != Receipt {
			t.Errorf("got %v, %v, want the receipt", f, err)
		}
	})
}

func TestServerThatReadsNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(c *Conn) error{
		"flush": func(c *Conn) error {
			if err := c.Write(&Frame{Command: Ack}); err != nil {
				return err
			}
			return c.Flush()
		},
		"full buffer": func(c *Conn) error { return c.Write(&Frame{Command: Send, Body: make([]byte, 1<<20)}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T, c *Conn, p *peer) {
				began := time.Now()
				err := send(c)
				if err == nil || !strings.Contains(err.Error(), "the server takes no bytes for 30s") {
					t.Errorf("got %v", err)
				}
				if passed := time.Since(began); passed != 30*time.Second {
					t.Errorf("it was given up after %v", passed)
				}
				if again := readToEnd(c); !errors.Is(again, err) {
					t.Errorf("Read returns %v, want %v", again, err)
				}
				if passed := time.Since(began); passed != 30*time.Second+grace {
					t.Errorf("Read ended after %v", passed)
				}
			})
		})
	}
}

func TestSlowReaderOfALargeFrameIsNotGivenUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, c *Conn, p *peer) {
		body := make([]byte, 4*chunk)
		done := make(chan error, 1)
		go func() {
			err := c.Write(&Frame{Command: Send, Body: body})
			done <- errors.Join(err, c.Flush())
		}()
		buffer := make([]byte, chunk/2)
		for left := len(body); left > 0; {
			time.Sleep(8 * time.Second)
			n, err := io.ReadFull(p, buffer)
			if err != nil {
				t.Error(err)
				return
			}
			left -= n
		}
		go p.wait()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The reason of a server that ends the connection is in a frame that it has sent,
// though a write failed by that end before the frame was read.
func TestErrorFrameExplainsAFailedWrite(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, c *Conn, p *peer) {
		c.silence = 0
		go func() {
			time.Sleep(30*time.Second + grace/2)
			p.say("RECEIPT\nreceipt-id:1\n\n\x00ERROR\nmessage:the reason\n\n\x00")
		}()
		if err := errors.Join(c.Write(published()), c.Flush()); err == nil {
			t.Error("nobody has read, and Flush succeeds")
		}
		if f, err := c.Read(); err != nil || f.Command != Receipt {
			t.Errorf("got %v, %v, want the receipt", f, err)
		}
		_, err := c.Read()
		var reason *ServerError
		if !errors.As(err, &reason) || reason.Message != "the reason" {
			t.Errorf("Read returns %v, want the reason", err)
		}
		if again := c.Write(published()); !errors.Is(again, err) {
			t.Errorf("Write returns %v, want %v", again, err)
		}
	})
}

func TestErrorFrameIsReadThoughTheConnectionWasReset(t *testing.T) {
	t.Parallel()
	c := dialPeer(t, &Config{}, func(p *peer) {
		p.next()
		p.say("ERROR\nmessage:the reason\n\n\x00")
		_ = p.Conn.(*net.TCPConn).SetLinger(0) // close by a reset
	})
	for c.Write(published()) == nil && c.Flush() == nil {
		continue
	}
	var reason *ServerError
	if err := readToEnd(c); !errors.As(err, &reason) {
		t.Errorf("Read returns %v, want the reason", err)
	}
}

func TestIdleConnectionToRabbitMQLives(t *testing.T) {
	t.Parallel()
	config := rabbit(t)
	config.Send, config.Receive = time.Second, time.Second
	raw, err := net.Dial("tcp", config.Addr)
	if err != nil {
		t.Fatal(err)
	}
	beaten := make(chan struct{})
	counted := &countingConn{Conn: raw, reached: beaten}
	c, err := openWithin(t, counted, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if c.beatEvery != time.Second || c.silence != 2*time.Second {
		t.Fatalf("heart-beats every %v, silence of %v", c.beatEvery, c.silence)
	}
	var running sync.WaitGroup
	running.Go(func() {
		select {
		case <-beaten:
			_ = c.Write(&Frame{Command: Subscribe, Headers: []Header{{"id", "0"}, {"destination", "/queue/a"}, {"receipt", "1"}}})
			_ = c.Flush()
		case <-c.done:
		}
	})
	defer running.Wait()
	if f, err := c.Read(); err != nil || f.Command != Receipt {
		t.Errorf("got %v, %v, want a receipt", f, err)
	}
}

// countingConn closes reached after so many reads that RabbitMQ, which sends a
// heart-beat each half second, would have closed a silent connection before.
type countingConn struct {
	net.Conn
	reads   int
	reached chan struct{}
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.reads++; c.reads == 10 {
		close(c.reached)
	}
	return n, err
}
