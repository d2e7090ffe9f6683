package stomp

import (
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWrongAnswersToConnectAreReported(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		"\x8a\x00\xff\xfe\x07\n":           "seems not to speak STOMP",
		"AMQP\x00\x00\x09\x01":             "closed the connection in the middle of a frame",
		"HTTP/1.1 400 Bad Request\r\n\r\n": `begins by "HTTP/1.1 400 Bad Request"`,
		"":                                 "the server has closed the connection",
		"\n\n\n":                           "the server has closed the connection",
		"CONNECTED\nversion:1.":            "closed the connection in the middle of a frame",
		"ERROR\nmessage:Bad CONNECT\n\nAccess refused for user 'u'\n\x00": "the server answers: Bad CONNECT: Access refused for user 'u'",
		"CONNECTED\nversion:1.1\n\n\x00":                                  `speaks STOMP "1.1", want 1.2`,
		"CONNECTED\nversion:1.2,1.1\n\n\x00":                              `speaks STOMP "1.2,1.1", want 1.2`,
		"CONNECTED\n\n\x00":                                               `speaks STOMP "1.0", want 1.2`,
		"RECEIPT\nreceipt-id:1\n\n\x00":                                   "answers CONNECT by RECEIPT",
		"CONNECTED\nversion:1.2\nheart-beat:1\n\n\x00":                    `heart-beat header of CONNECTED is wrong: "1"`,
		"CONNECTED\nversion:1.2\nheart-beat:-1,x\n\n\x00":                 `heart-beat header of CONNECTED is wrong`,
		"CONNECTED\nversion:1.2\ncontent-length:10000000000\n\n\x00":      "the body of CONNECTED is 10000000000",
	} {
		addr := serve(t, func(p *peer) {
			p.next()
			p.say(answer)
		})
		_, err := Dial(testContext(t), &Config{Addr: addr, Login: "u", Passcode: "p"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", answer, err, want)
		}
	}
}

func TestRefusalIsAServerError(t *testing.T) {
	t.Parallel()
	addr := serve(t, func(p *peer) {
		p.next()
		p.say("ERROR\nmessage:Bad\\nCONNECT\x1b\n\n" + strings.Repeat("y", 1<<20) + "\x00")
	})
	_, err := Dial(testContext(t), &Config{Addr: addr})
	var refused *ServerError
	if !errors.As(err, &refused) || !refused.Handshake || refused.Message != "Bad CONNECT" || refused.Body != strings.Repeat("y", maxServerError) {
		t.Errorf("got %.200q", err)
	}
}

func TestPasscodeThatTheServerRepeatsIsHidden(t *testing.T) {
	t.Parallel()
	// The cut at the end of what is kept must not leave the half of it.
	for _, cut := range []int{0, maxServerError - 80} {
		for _, passcode := range []string{"s3cr:t  s", `s3cr:t  s\n`} {
			addr := serve(t, func(p *peer) {
				f := p.next()
				echo, _ := AppendFrame(nil, f)
				p.say("ERROR\nmessage:passcode\\cs3cr\\ct  s\\\\n\n\n" + strings.Repeat("y", cut) + string(echo))
			})
			_, err := Dial(testContext(t), &Config{Addr: addr, Login: "guest", Passcode: passcode})
			if err == nil || strings.Contains(err.Error(), "s3cr") || !strings.Contains(err.Error(), "host:/") {
				t.Errorf("got %v", err)
			}
		}
	}
}

func TestWrongFramesEndTheConnection(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		"":                                     "the server has closed the connection",
		"MESSAGE\na:b\n\nhalf":                 "closed the connection in the middle of a frame",
		"MESSAGE\na:b":                         "closed the connection in the middle of a frame",
		"CONNECTED\nversion:1.2\n\n\x00":       "CONNECTED from a server on an open connection",
		"SEND\ndestination:/queue/a\n\n\x00":   "SEND from a server",
		"MESSAGE\na:\\t\n\n\x00":               `header "a" of MESSAGE has an undefined escape`,
		"MESSAGE\ncontent-length:2\n\nabc\x00": "no NUL follows",
		"MESSAGE\ncontent-length:10000000000\n\nabc\x00":           "the body of MESSAGE is 10000000000, at most 134217728 is taken",
		"\x16\x03\x01garbage\n":                                    "no command begins the frame",
		"RECEIPT\n\n\x00\nERROR\nreceipt-id:7\nmessage:m\n\nm\x00": "the server answers: m",
	} {
		c := dialPeer(t, &Config{}, func(p *peer) { p.say(stream) })
		err := readToEnd(c)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", stream, err, want)
		}
		if _, again := c.Read(); !errors.Is(again, err) {
			t.Errorf("Read returns %v after %v", again, err)
		}
		if again := c.Write(published()); !errors.Is(again, err) {
			t.Errorf("Write returns %v after %v", again, err)
		}
		if again := c.Flush(); !errors.Is(again, err) {
			t.Errorf("Flush returns %v after %v", again, err)
		}
	}
}

// It measures what the whole process allocates, so it does not run in parallel.
func TestMemoryForHostilePeersIsBounded(t *testing.T) {
	const fixed = 2*bufferSize + 64<<10
	for name, test := range map[string]struct {
		begin, repeat string
		limits        Limits
		most          uint64
		want          string
	}{
		"announced 10 GB":  {begin: "MESSAGE\ncontent-length:10000000000\n\nx", most: fixed, want: "the body of MESSAGE is 10000000000"},
		"announced 100 MB": {begin: "MESSAGE\ncontent-length:100000000\n\nx", most: fixed + 64<<10, want: "middle of a frame"},
		"endless command":  {repeat: "x", most: fixed, want: "the length of a command is more than 32"},
		"endless name":     {begin: "MESSAGE\n", repeat: "x", most: fixed + 2<<20, want: "the length of a header line is more than 262144"},
		"endless value":    {begin: "MESSAGE\na:", repeat: "\\n", most: fixed + 2<<20, want: "the length of a header line is more than 262144"},
		"endless headers":  {begin: "MESSAGE\n", repeat: "a:b\n", most: fixed + 256<<10, want: "the number of headers is more than 1000"},
		"long headers": {begin: "MESSAGE\n", repeat: "a:" + strings.Repeat("x", 100<<10) + "\n", most: fixed + 8<<20,
			want: "the length of all headers is more than 1048576"},
		"endless body": {begin: "MESSAGE\n\n", repeat: "x", limits: Limits{Body: 1 << 20}, most: fixed + 8<<20,
			want: "the body of MESSAGE is more than 1048576"},
		"body without NUL": {begin: "MESSAGE\ncontent-length:1\n\nx", repeat: "x", most: fixed, want: "no NUL follows"},
		"endless beats":    {repeat: "\n", most: fixed, want: "middle of a frame"},
	} {
		t.Run(name, func(t *testing.T) {
			var stream io.Reader = strings.NewReader(test.begin)
			if test.repeat != "" {
				chunk := []byte(strings.Repeat(test.repeat, 1+4096/len(test.repeat)))
				endless := io.LimitReader(&repeated{stream: chunk}, 64<<20)
				stream = io.MultiReader(stream, endless, strings.NewReader("MESSAGE"))
			}
			c := dialPeer(t, &Config{Limits: test.limits}, func(p *peer) { _, _ = io.Copy(p.Conn, stream) })
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := readToEnd(c)
			runtime.ReadMemStats(&after)
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if taken := after.TotalAlloc - before.TotalAlloc; taken > test.most {
				t.Errorf("%d bytes were taken, at most %d should be", taken, test.most)
			}
		})
	}
}

func TestSilenceBeforeConnectedEndsByTimeout(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(p *peer){
		"reads nothing":  func(*peer) {},
		"answers not":    func(p *peer) { p.next() },
		"half a frame":   func(p *peer) { p.next(); p.say("CONNECTED\nversion:") },
		"half a command": func(p *peer) { p.next(); p.say("CONN") },
		"beats only": func(p *peer) {
			for p.next(); ; time.Sleep(time.Second) {
				if _, err := io.WriteString(p, "\n"); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				var running sync.WaitGroup
				running.Go(func() { script(newPeer(theirs)) })
				defer func() { _ = theirs.Close(); running.Wait() }()
				began := time.Now()
				_, err := openWithin(t, ours, &Config{Timeout: 7 * time.Second})
				if err == nil || err.Error() != "no STOMP connection within 7s: context deadline exceeded" {
					t.Errorf("got %v", err)
				}
				if passed := time.Since(began); passed != 7*time.Second {
					t.Errorf("it ended after %v", passed)
				}
			})
		})
	}
}

// openWithin does what Dial does, on a connection that there is.
func openWithin(t *testing.T, conn net.Conn, config *Config) (*Conn, error) {
	t.Helper()
	config = config.withDefaults()
	ctx, cancel := config.dialing(t.Context())
	defer cancel()
	return open(ctx, conn, config)
}
