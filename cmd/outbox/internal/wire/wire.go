// Package wire makes stores, publishers and subscribers of the URLs in the
// configuration, and knows what may be wrong with those before it connects.
package wire

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
)

// Kinds of servers, by their URLs.
const (
	Postgres  = "PostgreSQL"
	SQLite    = "SQLite"
	RabbitMQ  = "RabbitMQ"
	JetStream = "JetStream"
	STOMP     = "STOMP"
	HTTP      = "HTTP"
	Stdout    = "standard output"
)

// DatabaseKind returns the kind of database that a URL names, or "".
func DatabaseKind(url string) string {
	scheme, _, _ := strings.Cut(url, ":")
	switch scheme {
	case "postgres", "postgresql":
		return Postgres
	case "sqlite":
		return SQLite
	}
	return ""
}

// BrokerKind returns the kind of broker that a URL names, or "".
func BrokerKind(url string) string {
	scheme, _, _ := strings.Cut(url, ":")
	switch scheme {
	case "amqp", "amqps":
		return RabbitMQ
	case "nats":
		return JetStream
	case "stomp", "stomps":
		return STOMP
	case "http", "https":
		return HTTP
	case "stdout":
		return Stdout
	}
	return ""
}

// CheckDatabase reports what is wrong with the keys of the database, whose URL is
// required.
func CheckDatabase(l *config.Loaded) {
	l.Require("database.url")
	CheckNames(l, DatabaseKind(l.Database.URL))
	switch {
	case l.Database.URL == "":
	case DatabaseKind(l.Database.URL) == Postgres:
		fault(l, "database.url", postgresFault(l.Database.URL))
		if l.Database.ListenURL != "" {
			fault(l, "database.listen_url", postgresFault(l.Database.ListenURL))
		}
	case DatabaseKind(l.Database.URL) == SQLite:
		fault(l, "database.url", sqliteFault(l.Database.URL))
	default:
		l.Fault("database.url", unknownScheme(l.Database.URL, "postgres://, postgresql:// or sqlite:PATH"))
	}
}

// CheckFile reports an SQLite file that is not there, which a connection would
// make, empty.
func CheckFile(l *config.Loaded) {
	if DatabaseKind(l.Database.URL) != SQLite || sqliteFault(l.Database.URL) != nil {
		return
	}
	if _, err := os.Stat(sqlitePath(l.Database.URL)); errors.Is(err, fs.ErrNotExist) {
		l.Fault("database.url", "names a file that does not exist: correct the path, or make it by `outbox migrate`")
	}
}

// CheckBroker reports what is wrong with the keys of the broker, whose URL is
// required.
func CheckBroker(l *config.Loaded) {
	l.Require("broker.url")
	if l.Broker.URL != "" {
		brokerFaults(l.Broker, func(key string, err error) { fault(l, "broker."+key, err) })
	}
	checkTLS(l)
}

// brokerKeys are the keys of a route that make its broker another one.
var brokerKeys = []string{"broker_url", "exchange", "stream", "subject_prefix", "destination", "mode", "source", "request_headers", "secrets"}

// CheckRoutes reports what is wrong with the brokers of the routes. Each has that
// of broker.* or one of its own.
func CheckRoutes(l *config.Loaded) {
	common := len(l.Routes) == 0
	for _, r := range l.Routes {
		own := slices.ContainsFunc(brokerKeys, r.IsSet)
		common = common || !r.IsSet("broker_url")
		checkRouteTLS(l, &r)
		if !own || r.Broker.URL == "" {
			continue
		}
		brokerFaults(r.Broker, func(key string, err error) {
			if key == "url" {
				key = "broker_url"
			}
			if err != nil && r.IsSet(key) {
				r.Fault(l, key, faultText(err))
			}
		})
	}
	if common {
		CheckBroker(l)
	} else {
		checkTLS(l)
	}
}

// fault reports err, if it is not nil, without what the URL keeps secret and
// without the package's name.
func fault(l *config.Loaded, key string, err error) {
	if err != nil {
		l.Fault(key, faultText(err))
	}
}

func faultText(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	for _, name := range []string{"rabbitmq: ", "natsjs: ", "stomp: ", "webhook: ", "sqlstore: ", "pgxstore: "} {
		text = strings.TrimPrefix(text, name)
	}
	return text
}

func unknownScheme(url, known string) string {
	scheme, _, ok := strings.Cut(url, ":")
	if !ok || strings.ContainsAny(scheme, " =@/") {
		return "is not a URL: begin it with " + known
	}
	return "has the unknown scheme " + scheme + ": use " + known
}

// errNotURL stands for what a parser says, which may quote parts of a password.
var errNotURL = errors.New("is not a URL of the form postgres://user:password@host:5432/database" +
	"; reserved characters in the user's name and password are percent-encoded")
