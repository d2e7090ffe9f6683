package webhook

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
)

func TestPublicAddresses(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "172.15.0.1": true, "172.32.0.1": true, "100.63.255.255": true, "100.128.0.1": true,
		"2001:4860:4860::8888": true, "2a00:1450::1": true, "64:ff9b::808:808": true, "::ffff:8.8.8.8": true,

		"127.0.0.1": false, "127.1.2.3": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false,
		"192.168.1.1": false, "168.63.129.16": false, "168.63.129.17": true, "169.254.169.254": false, "100.64.0.1": false, "100.127.255.255": false, "192.0.0.8": false, "192.0.2.1": false,
		"198.18.0.1": false, "198.19.255.255": false, "198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.255": false,
		"240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false,
		"64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false,
		"fec0::1": false, "ff02::1": false, "100::1": false, "2001::1": false, "2001:db8::1": false, "2002:7f00:1::": false, "5f00::1": false,
	} {
		if got := isPublic(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: got %t, want %t", address, got, want)
		}
	}
}

func TestTheURLOfAMessageIsGuarded(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	port := strings.TrimPrefix(s.URL, "http://127.0.0.1")
	p := open(t, s.URL, &PublisherConfig{URL: func(m *outbox.Message) string { return m.Key }})
	for _, address := range []string{
		s.URL, "http://localhost" + port, "http://[::ffff:127.0.0.1]" + port, "http://0.0.0.0" + port, "http://[::]" + port,
		"http://169.254.169.254/latest/meta-data", "https://10.0.0.1", "http://2130706433" + port, "http://0x7f.1" + port,
		"ftp://example.com", "file:///etc/passwd", "http://user:hunter2@8.8.8.8", "//example.com", "http://", "http://%zz", "example.com",
	} {
		err := publish(t, p, message("1", address)).wait()
		if strings.Contains(address, "2130706433") || strings.Contains(address, "0x7f") { // whether these are names is the resolver's to say
			if err == nil {
				t.Errorf("%s: no error", address)
			}
			continue
		}
		wantClass(t, err, outbox.ErrInvalid)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error has a password: %v", err)
		}
	}
	if n := len(s.requests()); n != 0 {
		t.Errorf("the server got %d requests, want none", n)
	}
}

// A proxy would connect to where this process must not.
func TestTheURLOfAMessageBypassesProxies(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	through, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, "http://example.com", &PublisherConfig{
		URL:       func(m *outbox.Message) string { return m.Key },
		Allow:     func(host string) bool { return host == "127.0.0.1" },
		Transport: &http.Transport{Proxy: http.ProxyURL(through)},
	})
	publish(t, p, message("1", "http://169.254.169.254/latest/meta-data")).want(outbox.ErrInvalid)
	publish(t, p, message("2", "")).want(nil)
	if r := s.only(t); r.Host != "example.com" {
		t.Errorf("the proxy got a request for %s", r.Host)
	}
}

// A connection that serves the publisher's own URL must not serve a message's.
func TestConnectionsToInternalAddressesAreNotShared(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	p := open(t, s.URL, &PublisherConfig{URL: func(m *outbox.Message) string { return m.Key }, Headers: http.Header{"X-Token": {"secret"}}})
	publish(t, p, message("1", "")).want(nil)
	publish(t, p, message("2", s.URL)).want(outbox.ErrInvalid)
	if r := s.only(t); r.Header.Get("X-Token") != "secret" {
		t.Errorf("got the headers %v", r.Header)
	}
}

func TestAllowedHostsMayBeInternal(t *testing.T) {
	t.Parallel()
	s := newSink(t, nil)
	port := strings.TrimPrefix(s.URL, "http://127.0.0.1")
	p := open(t, "http://example.com", &PublisherConfig{
		URL:     func(m *outbox.Message) string { return m.Key },
		Headers: http.Header{"X-Token": {"secret"}},
		Secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		Allow: func(host string) bool {
			if host == "localhost" {
				panic("no idea")
			}
			return host == "127.0.0.1"
		},
	})
	publish(t, p, message("1", s.URL)).want(nil)
	publish(t, p, message("2", "http://localhost"+port)).want(outbox.ErrInvalid)
	if r := s.only(t); r.Header.Get("X-Token") != "" || r.Header.Get("Webhook-Signature") != "" {
		t.Errorf("a message's URL got the configured headers, or a signature that others know by it: %v", r.Header)
	}
}

func TestAMessageWithoutAddressIsInvalid(t *testing.T) {
	t.Parallel()
	p := open(t, "", &PublisherConfig{URL: func(*outbox.Message) string { return "" }})
	wantClass(t, p.Send(context.Background(), message("1", "")), outbox.ErrInvalid)
}
