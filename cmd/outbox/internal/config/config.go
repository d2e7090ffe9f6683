// Package config is the program's configuration: one YAML file, whose keys are
// variables and flags as well. It is read and checked as a whole, and everything
// that is wrong with it is reported together, before anything connects.
package config

import (
	"cmp"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/outbox-go/outbox/relay"
)

// Config is what the keys set; see [Keys] for each of them.
type Config struct {
	Database  Database
	Broker    Broker
	Relay     relay.Config
	Drain     Drain
	Subscribe Subscribe
	Log       Log
	Routes    []Route // in the order of the file
}

// Database says where the outbox is.
type Database struct {
	URL         string
	ListenURL   string
	Schema      string
	TablePrefix string
}

// Broker says where messages go.
type Broker struct {
	URL           string
	Exchange      string
	Stream        string
	SubjectPrefix string
	CheckOnly     bool // topology: check
	Accept        bool // unroutable: accept
	TLS           TLS
	ReconnectMax  time.Duration
	Heartbeat     time.Duration
	Connections   int // to publish by; 0 is 1

	Destination  string // of STOMP, as the next four
	DOP          bool
	QueueType    string // of RabbitMQ, too
	QueueHeaders map[string]string
	Exclusive    bool

	Mode           string // of HTTP, as the others
	Source         string
	RequestHeaders http.Header
	Secrets        []string
	Timeout        time.Duration
	Concurrency    int
}

// TLS says how the broker is to show who it is, and this program to it. The zero
// value is what the system trusts, and no client certificate.
type TLS struct {
	CA          string // path, as the next two
	Cert        string
	Key         string
	KeyPassword string
	ServerName  string
}

// Drain says what the program drains, beside how each of its relays does.
type Drain struct {
	Route    string
	Outboxes []Outbox
	Listen   string
}

// Outbox is one of several in a database.
type Outbox struct {
	Schema      string // empty for that of database.schema
	TablePrefix string
}

// Subscribe says what is consumed, and how.
type Subscribe struct {
	Queue           string
	Topics          []string
	Forward         string
	Concurrency     int
	Prefetch        int // 0 for the default
	Timeout         time.Duration
	Retries         []time.Duration
	MaxAttempts     int // 0 for the default
	InOrder         bool
	DeadLetters     bool
	MessageID       []string
	InboxKeep       time.Duration // negative for ever
	ShutdownTimeout time.Duration
}

// Log says what is logged, and how.
type Log struct {
	Level slog.Level
	JSON  bool
}

// Loaded is a configuration, where each value came from, and what is wrong with
// it so far.
type Loaded struct {
	Config

	settings map[string]setting
	routes   []Route // as the file has them
	problems []Problem
}

// setting is the value of a key and where it was found.
type setting struct {
	values []string
	origin string
	broken bool // there is one, but it could not be read, as was reported
}

// Sources are where values come from; a flag wins over a variable, a variable
// over the file, and the file over the default.
type Sources struct {
	// File is the path of the file, empty for none, and FileOrigin what named it,
	// such as "flag --config".
	File       string
	FileOrigin string

	// Env looks a variable up. Nil means that there are none.
	Env func(name string) (string, bool)

	// EnvPrefix is what variables begin with instead of OUTBOX_.
	EnvPrefix string

	// Flags are the values of the flags that were given, by key.
	Flags map[string][]string
}

// Load reads the values of all keys. What is wrong with them is in the answer: add
// to it by [Loaded.Require] and [Loaded.Fault], then ask [Loaded.Err].
func Load(s Sources) *Loaded {
	l := &Loaded{settings: map[string]setting{}}
	for _, k := range Keys {
		if k.Default != "" {
			l.settings[k.Name] = setting{values: k.split([]string{k.Default})}
		}
	}
	if s.File != "" {
		l.readFile(s)
	}
	for _, k := range Keys {
		if values, ok := s.Flags[k.Name]; ok {
			l.settings[k.Name] = setting{values: k.split(values), origin: flagOrigin(k)}
			if len(values) > 1 && slices.Contains(values, "") { // a single one takes back what is in the file
				l.Fault(k.Name, "has an empty value: leave that flag out, or give it one")
			}
			continue
		}
		if s.Env == nil {
			continue
		}
		variable := k.Env()
		if s.EnvPrefix != "" {
			variable = s.EnvPrefix + strings.TrimPrefix(variable, "OUTBOX_")
		}
		if value, ok := s.Env(variable); ok && value != "" {
			l.settings[k.Name] = setting{values: k.split([]string{value}), origin: "variable " + variable}
		}
	}
	for _, k := range Keys {
		if set, ok := l.settings[k.Name]; ok && !set.broken && len(set.values) > 0 {
			if err := k.set(&l.Config, set.values); err != nil {
				l.Fault(k.Name, err.Error())
			}
		}
	}
	l.setRoutes()
	return l
}

// IsSet reports whether somebody gave a value for the key, even its default.
func (l *Loaded) IsSet(key string) bool { return l.settings[key].origin != "" }

// ByFlag reports whether a flag gave the value for the key.
func (l *Loaded) ByFlag(key string) bool {
	return l.settings[key].origin == flagOrigin(keyNamed(key))
}

func flagOrigin(k *Key) string { return "flag --" + k.Flag() }

// Require reports each of the keys that has no value.
func (l *Loaded) Require(keys ...string) {
	for _, name := range keys {
		k := keyNamed(name)
		if set, ok := l.settings[name]; ok {
			if !set.broken && strings.Join(set.values, "") == "" {
				l.Fault(name, "is empty: give a value, for example "+k.Example)
			}
			continue
		}
		l.problems = append(l.problems, Problem{Key: name, Reason: "is not set: give the flag --" + k.Flag() +
			", the variable " + k.Env() + " or the key in the file; for example " + k.Example})
	}
}

// Fault reports what is wrong with the value of a key, and what would be right.
func (l *Loaded) Fault(key, reason string) {
	p := Problem{Key: key, Reason: reason}
	if set, ok := l.settings[key]; ok {
		p.Value, p.Origin = display(keyNamed(key), set.values), set.origin
	}
	l.problems = append(l.problems, p)
}

// Err returns nil or an [*Error] with all that was reported, in the order of
// [Keys]; what is not about one of them comes first.
func (l *Loaded) Err() error {
	if len(l.problems) == 0 {
		return nil
	}
	place := func(p Problem) int {
		return slices.IndexFunc(Keys, func(k *Key) bool { return k.Name == p.Key })
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int { return cmp.Compare(place(a), place(b)) })
	return &Error{Problems: l.problems}
}

// Add reports a problem with something that is no key.
func (l *Loaded) Add(p Problem) { l.problems = append(l.problems, p) }
