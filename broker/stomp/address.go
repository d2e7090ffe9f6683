package stomp

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// errURL quotes nothing: the password may be anywhere in what is malformed.
var errURL = errors.New("the URL is not one of the form stomp://user:password@host:61613,host2:61613/vhost, " +
	"or stomps://; reserved characters in the user's name, the password and the virtual host are percent-encoded")

// address is what a URL says.
type address struct {
	scheme      string
	hosts       []string // host:port
	login, pass string
	vhost       string
}

// parseAddress takes a URL apart. The standard library's parser knows one host only.
func parseAddress(rawURL string) (*address, error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	port := "61613"
	switch {
	case !ok:
		return nil, errURL
	case scheme == "stomps":
		port = "61614"
	case scheme != "stomp":
		return nil, errURL
	}
	if strings.ContainsAny(rest, "?#") {
		return nil, errors.New("the URL has parameters: there are none for STOMP")
	}
	authority, path, _ := strings.Cut(rest, "/")
	a := &address{scheme: scheme, vhost: "/"}
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		if err := a.setUser(authority[:at]); err != nil {
			return nil, err
		}
		authority = authority[at+1:]
	}
	if path != "" {
		vhost, err := url.PathUnescape(path)
		if err != nil || strings.ContainsAny(path, "/@") || // of a password with a slash, perhaps
			hasControl(vhost) {
			return nil, errURL
		}
		a.vhost = vhost
	}
	for host := range strings.SplitSeq(authority, ",") {
		joined, err := joinPort(host, port)
		if err != nil {
			return nil, err
		}
		a.hosts = append(a.hosts, joined)
	}
	return a, nil
}

func (a *address) setUser(userinfo string) error {
	login, pass, _ := strings.Cut(userinfo, ":")
	var err1, err2 error
	a.login, err1 = url.PathUnescape(login)
	a.pass, err2 = url.PathUnescape(pass)
	if err1 != nil || err2 != nil || strings.ContainsAny(a.login+a.pass, "\r\n") {
		return errURL
	}
	return nil
}

// joinPort returns host with a port, that one unless it has its own. An IPv6 address
// is in brackets.
func joinPort(host, port string) (string, error) {
	if !strings.Contains(host[strings.LastIndex(host, "]")+1:], ":") {
		host += ":" + port
	}
	name, port, err := net.SplitHostPort(host)
	number, numberErr := strconv.ParseUint(port, 10, 16)
	if err != nil || numberErr != nil || number == 0 || name == "" || strings.ContainsAny(name, " \t\r\n@") {
		return "", errURL
	}
	return net.JoinHostPort(name, port), nil
}

// String names the broker, without credentials.
func (a *address) String() string {
	return fmt.Sprintf("%s://%s, vhost %q", a.scheme, strings.Join(a.hosts, ","), a.vhost)
}
