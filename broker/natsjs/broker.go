package natsjs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/outbox-go/outbox"
)

// Broker is one stream on a JetStream server or cluster. It opens publishers and
// subscribers, each with a connection of its own, and is safe for concurrent
// use. It holds nothing to close itself.
type Broker struct {
	url    string
	config Config
}

// New returns a broker that connects when it is asked for something. url is the
// address of a server, "nats://127.0.0.1:4222", or of several, separated by
// commas. config may be nil. The error reports every fault of the two; nothing
// is connected before they are right.
func New(url string, config *Config) (*Broker, error) {
	c := config.withDefaults()
	if err := errors.Join(validateURL(url), c.validate()); err != nil {
		return nil, err
	}
	return &Broker{url: url, config: c}, nil
}

// Connect is New and then [Broker.Setup], for those who want to know at once
// whether the server is there and the stream as it should be.
func Connect(ctx context.Context, url string, config *Config) (*Broker, error) {
	b, err := New(url, config)
	if err != nil {
		return nil, err
	}
	if err := b.Setup(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// Setup connects once and makes the stream, or checks it, as [Config.Topology]
// says. A server that cannot be reached gives [outbox.ErrUnavailable]; a stream
// that is missing or has other subjects, an error that says so.
func (b *Broker) Setup(ctx context.Context) error {
	conn, err := b.dial(ctx, "setup")
	if err != nil {
		return err
	}
	defer conn.close()
	_, err = b.ensureStream(ctx, conn)
	return err
}

func validateURL(addresses string) error {
	if addresses == "" {
		return errors.New(`natsjs: url is empty: give the server's address, such as "nats://127.0.0.1:4222"`)
	}
	for address := range strings.SplitSeq(addresses, ",") {
		address = strings.TrimSpace(address)
		if !strings.Contains(address, "://") {
			address = "nats://" + address
		}
		u, err := url.Parse(address)
		if err != nil {
			return errors.New("natsjs: url is not a list of addresses: one of them cannot be parsed") // err has the password
		}
		switch u.Scheme {
		case "nats", "tls", "ws", "wss":
		default:
			return fmt.Errorf("natsjs: url has the scheme %q: use nats, tls, ws or wss", u.Scheme)
		}
		if u.Host == "" {
			return errors.New("natsjs: url has an address without a host")
		}
	}
	return nil
}

// unavailable marks err with what was tried.
func unavailable(what string, err error) error {
	return outbox.Unavailable(fmt.Errorf("natsjs: %s: %w", what, err))
}
