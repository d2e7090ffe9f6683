package testenv_test

import (
	"crypto/tls"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
)

// TestRabbitMQWithTLSKnowsItsClients: the test server refuses and takes what it should, so that a test with it is
// about the driver.
func TestRabbitMQWithTLSKnowsItsClients(t *testing.T) {
	t.Parallel()
	authority := testenv.NewAuthority(t)
	client, stranger := authority.Issue("app"), testenv.NewAuthority(t).Issue("app")
	mq := testenv.StartRabbitMQ(t, &testenv.RabbitMQOptions{
		TLS: &testenv.TLSOptions{Identity: authority.Issue("broker", "localhost"), Clients: authority},
	})
	hello := map[string]string{mq.AMQPSURL(mq.URL()): "AMQP\x00\x00\x09\x01", mq.STOMPSURL(mq.URL()): "CONNECT\nlogin:guest\npasscode:guest\n\n\x00"}
	for address, hello := range hello {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			name string
			tls  *tls.Config
			want string // of the error
		}{
			{"its client", &tls.Config{RootCAs: authority.Pool(), Certificates: []tls.Certificate{client.Pair}}, ""},
			{"nobody", &tls.Config{RootCAs: authority.Pool()}, "certificate"},
			{"another's client", &tls.Config{RootCAs: authority.Pool(), Certificates: []tls.Certificate{stranger.Pair}}, "certificate"},
			{"who asks for another host", &tls.Config{RootCAs: authority.Pool(), ServerName: "127.0.0.1"}, "127.0.0.1"},
			{"who trusts others", &tls.Config{ServerName: "localhost"}, "authority"},
		} {
			said := hello
			if tc.want != "" {
				said = "" // a server that has refused answers anything more with a reset, which can overtake its reason
			}
			err := converse(u.Host, said, tc.tls)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %s: error %v, want one with %q", u.Scheme, tc.name, err, tc.want)
			}
		}
	}
}

// converse sends hello and waits for the first byte of an answer: with TLS 1.3 a server refuses a client's certificate
// after the client's part of the handshake.
func converse(addr, hello string, config *tls.Config) error {
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte(hello)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}
