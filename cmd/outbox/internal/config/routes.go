package config

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// routesKey is the one mapping of the file whose keys are the user's.
const routesKey = "routes"

// Route is a route with the broker that its messages go to.
type Route struct {
	relay.Route
	Broker Broker
	Rates  []relay.Rate // those of relay.rates if it has none of its own

	settings map[string]setting
}

// routeKey is a key of a route, with where its value goes.
type routeKey struct {
	name string
	set  func(r *Route, values []string) error
}

var routeKeys = []routeKey{
	{"topics", routeTopics},
	{"tenants", func(r *Route, values []string) error { r.Tenants = values; return nil }},
	{"headers", nil}, // a mapping
	{"broker_url", func(r *Route, values []string) error { r.Broker.URL = values[0]; return nil }},
	{"exchange", func(r *Route, values []string) error { r.Broker.Exchange = values[0]; return nil }},
	{"stream", func(r *Route, values []string) error { r.Broker.Stream = values[0]; return nil }},
	{"subject_prefix", func(r *Route, values []string) error { r.Broker.SubjectPrefix = values[0]; return nil }},
	{"unroutable", func(r *Route, values []string) error {
		c := Config{}
		err := unroutable(&c, values)
		r.Broker.Accept = c.Broker.Accept
		return err
	}},
	{"destination", func(r *Route, values []string) error { r.Broker.Destination = values[0]; return nil }},
	{"mode", func(r *Route, values []string) error {
		c := Config{}
		err := mode(&c, values)
		r.Broker.Mode = c.Broker.Mode
		return err
	}},
	{"source", func(r *Route, values []string) error { r.Broker.Source = values[0]; return nil }},
	{"request_headers", func(r *Route, values []string) (err error) {
		r.Broker.RequestHeaders, err = parseHeaders(values)
		return err
	}},
	{"secrets", func(r *Route, values []string) error { r.Broker.Secrets = values; return nil }},
	{"tls_ca", routeTLS(func(t *TLS) *string { return &t.CA })},
	{"tls_cert", routeTLS(func(t *TLS) *string { return &t.Cert })},
	{"tls_key", routeTLS(func(t *TLS) *string { return &t.Key })},
	{tlsKeyPassword, routeTLS(func(t *TLS) *string { return &t.KeyPassword })},
	{"tls_server_name", routeTLS(func(t *TLS) *string { return &t.ServerName })},
	{"rates", func(r *Route, values []string) error {
		c := Config{}
		err := rates(&c, values)
		r.Rates = c.Relay.Rates
		return err
	}},
}

const tlsKeyPassword = "tls_key_password"

func routeTLS(field func(*TLS) *string) func(*Route, []string) error {
	return func(r *Route, values []string) error {
		*field(&r.Broker.TLS) = values[0]
		return nil
	}
}

// routeLists are the keys of a route that take several values.
var routeLists = []string{"topics", "tenants", "rates", "request_headers", "secrets"}

func routeTopics(r *Route, values []string) error {
	r.Topics = values
	one := []relay.Route{{Name: "x", Topics: values}}
	return reason(relay.ValidateRoutes(one), "Topics has ")
}

// Fault reports what is wrong with a key of the route.
func (r *Route) Fault(l *Loaded, key, reason string) {
	p := Problem{Key: r.key(key), Reason: reason}
	if set, ok := r.settings[key]; ok {
		p.Value, p.Origin = strings.Join(set.values, ","), set.origin
		switch key {
		case "broker_url":
			p.Value = Redact(p.Value)
		case tlsKeyPassword, "request_headers", "secrets":
			p.Value = hidden
		}
	}
	l.Add(p)
}

// IsSet reports whether the file says something of the key.
func (r *Route) IsSet(key string) bool { return r.settings[key].origin != "" }

// OwnTLS reports whether the file says something of the route's TLS, which then
// takes nothing from broker.tls.
func (r *Route) OwnTLS() bool {
	return slices.ContainsFunc(routeKeys, func(k routeKey) bool { return strings.HasPrefix(k.name, "tls_") && r.IsSet(k.name) })
}

func (r *Route) key(key string) string { return routesKey + "." + r.Name + "." + key }

// routesMapping reads the routes.
func (f *file) routesMapping(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		if n.Tag != "!!null" {
			f.fault(routesKey, n, "must have the names of routes below it, each with "+strings.Join(routeWords(), ", "))
		}
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		key := routesKey + "." + name.Value
		if slices.ContainsFunc(f.routes, func(r Route) bool { return r.Name == name.Value }) {
			f.fault(key, name, "is there twice: remove one of them")
			continue
		}
		if err := outbox.ValidateRoute(name.Value); err != nil {
			f.fault(key, name, "the name "+err.Error())
		}
		r := Route{Route: relay.Route{Name: name.Value}, settings: map[string]setting{}}
		f.routeMapping(&r, value)
		f.routes = append(f.routes, r)
	}
}

func routeWords() (words []string) {
	for _, k := range routeKeys {
		words = append(words, k.name)
	}
	return words
}

// routeMapping reads the keys of a route.
func (f *file) routeMapping(r *Route, n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		f.fault(routesKey+"."+r.Name, n, "must have keys below it: "+strings.Join(routeWords(), ", "))
		return
	}
	seen, faults := map[string]bool{}, len(f.problems)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		twice := seen[key.Value]
		seen[key.Value] = true
		switch {
		case twice:
			f.fault(r.key(key.Value), key, "is there twice: remove one of them")
		case !slices.Contains(routeWords(), key.Value):
			reason := "is not a key; there are " + strings.Join(routeWords(), ", ")
			if near := nearest(key.Value, routeWords()); near != "" {
				reason = "is not a key; did you mean " + near + "?"
			}
			f.fault(r.key(key.Value), key, reason)
		case key.Value == "headers":
			f.routeHeaders(r, value)
		default:
			if values, ok := f.list(r.key(key.Value), value); ok {
				r.settings[key.Value] = setting{values: values, origin: f.origin(value)}
			}
		}
	}
	if !seen["topics"] && !seen["tenants"] && !seen["headers"] && len(f.problems) == faults {
		f.fault(routesKey+"."+r.Name, n, "has no condition, topics, tenants or headers: write topics: ['#'] for all messages")
	}
}

// list reads a value or several. An empty one is a fault, lest a route takes all
// because a variable is not set; but tenants may list the empty name.
func (f *file) list(key string, n *yaml.Node) (values []string, ok bool) {
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	values, good := f.scalars(key, nodes, "must be a single value or a list of them")
	listed := n.Kind == yaml.SequenceNode && strings.HasSuffix(key, ".tenants") && len(values) > 0
	if good && !listed && strings.Join(values, "") == "" {
		f.fault(key, n, "is empty: give a value, or leave the key out")
		good = false
	}
	return values, good
}

func (f *file) routeHeaders(r *Route, n *yaml.Node) {
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		f.fault(r.key("headers"), n, "must have the names of headers below it, each with its value")
		return
	}
	r.Headers = map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		values, ok := f.list(r.key("headers."+name), n.Content[i+1])
		if ok && len(values) > 1 {
			f.fault(r.key("headers."+name), n.Content[i+1], "must be a single value")
		} else if ok {
			r.Headers[name] = values[0]
		}
	}
	r.settings["headers"] = setting{origin: f.origin(n)}
}

// setRoutes makes the routes: what a route does not say of its broker or its rates,
// broker.* and relay.rates do. Its TLS is all its own or all that of broker.tls: a
// client certificate belongs to one broker, with the authority that has signed it.
func (l *Loaded) setRoutes() {
	for _, r := range l.routes {
		r.Broker, r.Rates = l.Broker, l.Relay.Rates
		if r.OwnTLS() {
			r.Broker.TLS = TLS{}
		}
		if r.IsSet("broker_url") { // what is secret is for the other address alone
			r.Broker.RequestHeaders, r.Broker.Secrets = nil, nil
		}
		for _, k := range routeKeys {
			set, ok := r.settings[k.name]
			if !ok || k.set == nil {
				continue
			}
			if len(set.values) > 1 && !slices.Contains(routeLists, k.name) {
				r.Fault(l, k.name, "must be a single value")
			} else if err := k.set(&r, set.values); err != nil {
				r.Fault(l, k.name, err.Error())
			}
		}
		l.Routes = append(l.Routes, r)
	}
}
