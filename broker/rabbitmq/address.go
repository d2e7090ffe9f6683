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

// plain returns the URL as one without TLS, for the library.
func (a *address) plain() string {
	_, rest, _ := strings.Cut(a.url, "://")
	return "amqp://" + rest
}

// parseAddresses returns an address for each host of a URL, at least one.
func parseAddresses(rawURL string) ([]address, error) {
	if path, _, _ := strings.Cut(behindHosts(rawURL), "?"); strings.Contains(path, "@") {
		// Mostly a password with a slash in it, of which parts would be taken for names.
		return nil, errors.New(`the URL has an "@" behind its hosts: a slash in the user's name or password is written %2F, an "@" in the virtual host %40`)
	}
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

// behindHosts returns what a URL has behind its hosts.
func behindHosts(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "://")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		return rest[end:]
	}
	return ""
}

// splitHosts makes of a URL with several hosts one for each of them. It makes no
// valid URL of one that is not.
func splitHosts(rawURL string) []string {
	scheme, rest, _ := strings.Cut(rawURL, "://")
	end := len(rest) - len(behindHosts(rawURL))
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
