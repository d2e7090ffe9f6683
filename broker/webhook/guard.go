package webhook

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// newTransports returns the transport for the publisher's URL and that for the URLs
// of messages. They share no connections: one that was made to an internal address
// must not serve a request that may not go there. They are used without an
// http.Client, which would look at redirects, and quote URLs.
func newTransports(c *PublisherConfig) (own, others http.RoundTripper) {
	transport, ok := c.Transport.(*http.Transport)
	if !ok && c.Transport != nil {
		return c.Transport, nil
	}
	if transport == nil {
		transport = defaultTransport(c)
	}
	mine := transport.Clone()
	if mine.MaxIdleConnsPerHost == 0 {
		mine.MaxIdleConnsPerHost = c.Concurrency // else it keeps two of them
	}
	if mine.MaxResponseHeaderBytes == 0 {
		mine.MaxResponseHeaderBytes = 256 << 10
	}
	if mine.HTTP2 == nil {
		// A connection of HTTP/2 outlives its requests' time-outs: one whose peer is
		// gone would be used again.
		mine.HTTP2 = &http.HTTP2Config{SendPingTimeout: c.Timeout, PingTimeout: c.Timeout}
	}
	guarded := mine.Clone()
	guarded.Proxy = nil
	guarded.DialContext = (&guard{c.Allow}).dial
	guarded.DialTLSContext = nil
	guarded.Dial, guarded.DialTLS = nil, nil //nolint:staticcheck // they would be used if they were set
	return mine, guarded
}

// closeIdle closes the idle connections of a transport of newTransports; that of the
// caller is the caller's.
func closeIdle(transport http.RoundTripper) {
	if t, ok := transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// defaultTransport is like http.DefaultTransport.
func defaultTransport(c *PublisherConfig) *http.Transport {
	return &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		DialContext:       (&net.Dialer{}).DialContext,
		ForceAttemptHTTP2: true,
		TLSClientConfig:   c.TLS.Clone(),
		MaxIdleConns:      4 * c.Concurrency,
		IdleConnTimeout:   90 * time.Second,
	}
}

// guard connects to public addresses only.
type guard struct {
	allow func(host string) bool
}

// dial looks at the addresses that a name was resolved to when the connection is
// made, so no later answer of the DNS can differ from what was looked at.
func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	if !g.allowed(host) {
		d.ControlContext = refuseInternal
	}
	return d.DialContext(ctx, network, address)
}

// allowed asks the user's function. A panic of it, in a goroutine of the transport,
// would end the process.
func (g *guard) allowed(host string) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return g.allow != nil && g.allow(host)
}

func refuseInternal(_ context.Context, _, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !isPublic(at.Addr()) {
		return &internalAddressError{address}
	}
	return nil
}

// internalAddressError is an address that a message may not choose.
type internalAddressError struct{ address string }

func (e *internalAddressError) Error() string {
	return fmt.Sprintf("%s is not an address of the public Internet, and PublisherConfig.Allow does not allow its host", e.address)
}

// nat64 is the prefix by which IPv6 reaches an IPv4 address (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// global are the addresses that the Internet routes, as far as IPv6 has them
// assigned.
var global = netip.MustParsePrefix("2000::/3")

// special are the ranges of special purpose, of those that methods of netip.Addr do
// not know (https://www.iana.org/assignments/iana-ipv4-special-registry and
// https://www.iana.org/assignments/iana-ipv6-special-registry).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),        // this network
	netip.MustParsePrefix("100.64.0.0/10"),    // carrier-grade NAT
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's host, from its machines
	netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),     // documentation
	netip.MustParsePrefix("192.88.99.0/24"),   // 6to4 relays
	netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"),  // documentation
	netip.MustParsePrefix("203.0.113.0/24"),   // documentation
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved, and broadcast
	netip.MustParsePrefix("2001::/23"),        // protocol assignments, with Teredo
	netip.MustParsePrefix("2001:db8::/32"),    // documentation
	netip.MustParsePrefix("2002::/16"),        // 6to4, which embeds any IPv4 address
	netip.MustParsePrefix("3fff::/20"),        // documentation
}

// isPublic reports whether an address is one of the public Internet.
func isPublic(a netip.Addr) bool {
	a = a.Unmap()
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if a.Is6() && !global.Contains(a) || !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
