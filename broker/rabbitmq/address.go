package rabbitmq

import (
	"errors"
	"fmt"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// address is where a broker is, one of those that a URL names.
type address struct {
	url string
	uri amqp.URI
}

// String names the broker, without credentials.
func (a *address) String() string {
	return fmt.Sprintf("%s://%s:%d, vhost %q", a.uri.Scheme, a.uri.Host, a.uri.Port, a.uri.Vhost)
}

// parseAddresses returns an address for each host of a URL, at least one.
func parseAddresses(rawURL string) ([]address, error) {
	urls := splitHosts(rawURL)
	addresses := make([]address, len(urls))
	for i, url := range urls {
		uri, err := amqp.ParseURI(url)
		if err != nil {
			// The reason given by the parser can quote parts of the password.
			return nil, errors.New("the URL is not one of the form amqp://user:password@host:5672/vhost, or amqps://, " +
				"or with several hosts, host:5672,other:5672; reserved characters in the user's name and password are percent-encoded")
		}
		addresses[i] = address{url: url, uri: uri}
	}
	return addresses, nil
}

// splitHosts makes of a URL with several hosts one for each of them. It makes no
// valid URL of one that is not.
func splitHosts(rawURL string) []string {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	user := strings.LastIndexByte(rest[:end], '@') + 1
	hosts := strings.Split(rest[user:end], ",")
	if len(hosts) == 1 {
		return []string{rawURL}
	}
	urls := make([]string, len(hosts))
	for i, host := range hosts {
		if host == "" {
			continue // without a host it would be that of localhost
		}
		urls[i] = scheme + "://" + rest[:user] + host + rest[end:]
	}
	return urls
}

// failures are the reasons why none of several brokers could be connected to, in
// the order of the URL.
type failures []error

func (f failures) Error() string {
	texts := make([]string, len(f))
	for i, err := range f {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (f failures) Unwrap() []error { return f }
