package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// load loads a file with that text, variables and flags.
func load(t *testing.T, text string, env map[string]string, flags map[string][]string) *Loaded {
	t.Helper()
	s := Sources{Flags: flags, Env: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}}
	if text != "" {
		s.File, s.FileOrigin = filepath.Join(t.TempDir(), "outbox.yaml"), "flag --config"
		if err := os.WriteFile(s.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(s)
}

// problems returns what is wrong, one line each, the file's folder left out.
func problems(t *testing.T, l *Loaded) []string {
	t.Helper()
	var e *Error
	if err := l.Err(); err == nil {
		return nil
	} else if !errors.As(err, &e) {
		t.Fatalf("Err is a %T", err)
	}
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		before, after, ok := strings.Cut(p.String(), string(filepath.Separator)+"outbox.yaml")
		if ok {
			before = before[:strings.LastIndexAny(before, `("`)+1] + "outbox.yaml"
		}
		lines[i] = before + after
	}
	return lines
}

func TestFlagWinsOverVariableOverFileOverDefault(t *testing.T) {
	t.Parallel()
	const file = "relay: {window: 2, read_batch: 2, settle_batch: 2}\nlog: {level: debug}\n"
	env := map[string]string{"OUTBOX_RELAY_WINDOW": "3", "OUTBOX_RELAY_READ_BATCH": "3", "OUTBOX_LOG_LEVEL": ""}
	l := load(t, file, env, map[string][]string{"relay.window": {"4"}})
	if got := problems(t, l); got != nil {
		t.Fatal(got)
	}
	for _, tc := range []struct {
		key       string
		got, want any
	}{
		{"relay.window, by a flag", l.Relay.Window, 4},
		{"relay.read_batch, by a variable", l.Relay.ReadBatch, 3},
		{"relay.settle_batch, by the file", l.Relay.SettleBatch, 2},
		{"log.level, by the file since the variable is empty", l.Log.Level, slog.LevelDebug},
		{"relay.drain_timeout, by default", l.Relay.DrainTimeout, 10 * time.Second},
		{"database.schema, by default", l.Database.Schema, "outbox"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.key, tc.got, tc.want)
		}
	}
}

func TestEveryKeyBySourceOfEachKind(t *testing.T) {
	t.Parallel()
	const file = `
database:
  url: postgres://app:${PASSWORD}@db/shop
  schema: s
  table_prefix: p_
  listen_url: postgres://app@direct/shop
broker:
  url: ${SCHEME:-amqp}://mq/
  exchange: x
  stream: st
  subject_prefix: a.b.
  topology: check
  unroutable: accept
  tls: {ca: ca.pem, cert: c.pem, key: k.pem, key_password: "${PASSWORD}", server_name: mq.example}
  destination: /exchange/x/{topic}
  dop: yes
  queue_type: classic
  queue_headers: [x-max-length=10, x-a = b=c]
  exclusive: yes
  heartbeat: 5s
  connections: 3
  reconnect_max: 1h
  mode: binary
  source: /shop
  request_headers: ["Authorization: Bearer ${PASSWORD}, x", "X-A: b"]
  secrets: [whsec_a, whsec_b]
  timeout: 3s
  concurrency: 4
relay:
  name: $${me}
  window: 1_500
  memory: 64 MiB
  read_batch: 10
  settle_batch: 20
  lease_ttl: 1m30s
  poll_interval: 250ms
  drain_timeout: 3s
  pipelined: [audit.#, "metrics.*"]
  max_shards: 8
  max_attempts: 5
  refused_backoff: 4m
  max_refused_backoff: 10m
  on_dead: [orders.#=park, "a=b.#=block"]
  keep: 30d
  rates: [mail.#=100/s, sms.*=30/m]
  rename: ["orders.#={topic}.{version}"]
  route: audit
  outboxes: [shop, billing/ob_, /x_]
  listen: :9464
subscribe:
  queue: billing
  topics: [user.*, order.#]
  forward: https://h/x
  concurrency: 2
  prefetch: 3
  timeout: 4s
  retries: [1s, 2m, 0s]
  max_attempts: 5
  in_order: yes
  dead_letters: yes
  message_id: [cap-msg-id, dop-msg-id]
  inbox_keep: 7d
  shutdown_timeout: 6s
log: {level: error, format: json}
`
	l := load(t, file, map[string]string{"PASSWORD": "geheim: {}"}, nil)
	if got := problems(t, l); got != nil {
		t.Fatal(strings.Join(got, "\n"))
	}
	wantBrokerOfOthers(t, &l.Broker)
	if text := fmt.Sprintf("%+v %v %v", l.Subscribe, l.Relay.RefusedBackoff, l.Relay.MaxRefusedBackoff); text !=
		"{Queue:billing Topics:[user.* order.#] Forward:https://h/x Concurrency:2 Prefetch:3 Timeout:4s Retries:[1s 2m0s 0s] MaxAttempts:5 "+
			"InOrder:true DeadLetters:true MessageID:[cap-msg-id dop-msg-id] InboxKeep:168h0m0s ShutdownTimeout:6s} 4m0s 10m0s" {
		t.Errorf("subscribe is %s", text)
	}
	got := fmt.Sprintf("%+v %+v %v %d %d %v %v %v %v %d %s %v %d %v %v %v %+v", l.Database, l.Broker, l.Relay.Name, l.Relay.Window, l.Relay.Memory,
		l.Relay.LeaseTTL, l.Relay.PollInterval, l.Relay.DrainTimeout, l.Relay.Pipelined, l.Relay.MaxShards, l.Log.Level, l.Log.JSON,
		l.Relay.MaxAttempts, l.Relay.Policies, l.Relay.Keep, l.Relay.Rates, l.Drain)
	const want = "{URL:postgres://app:geheim: {}@db/shop ListenURL:postgres://app@direct/shop Schema:s TablePrefix:p_} " +
		"{URL:amqp://mq/ Exchange:x Stream:st SubjectPrefix:a.b. CheckOnly:true Accept:true " +
		"TLS:{CA:ca.pem Cert:c.pem Key:k.pem KeyPassword:geheim: {} ServerName:mq.example}" + noOther + "} " +
		"${me} 1500 67108864 1m30s 250ms 3s [audit.# metrics.*] 8 ERROR true " +
		"5 [{orders.# park} {a=b.# block}] 720h0m0s [{mail.# 100} {sms.* 0.5}] " +
		"{Route:audit Outboxes:[{Schema:shop TablePrefix:} {Schema:billing TablePrefix:ob_} {Schema: TablePrefix:x_}] Listen::9464}"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	m := outbox.Message{Topic: "orders.placed", Version: "v2"}
	if err := l.Relay.Transform(t.Context(), &m); err != nil || m.Topic != "orders.placed.v2" {
		t.Errorf("renamed to %q, %v", m.Topic, err)
	}
	for _, k := range Keys {
		if !l.IsSet(k.Name) {
			t.Errorf("%s is in the file but not set: this test lacks it, or it is not read", k.Name)
		}
	}
}

// noOther is how a broker prints without what [wantBrokerOfOthers] has checked.
const noOther = " ReconnectMax:0s Heartbeat:0s Connections:0 Destination: DOP:false QueueType: QueueHeaders:map[] Exclusive:false" +
	" Mode: Source: RequestHeaders:map[] Secrets:[] Timeout:0s Concurrency:0"

// wantBrokerOfOthers checks what is of STOMP and HTTP, and takes it away.
func wantBrokerOfOthers(t *testing.T, b *Broker) {
	t.Helper()
	got := fmt.Sprint(b.ReconnectMax, b.Heartbeat, b.Connections, b.Destination, b.DOP, b.QueueType, b.QueueHeaders, b.Exclusive,
		b.Mode, b.Source, b.RequestHeaders, b.Secrets, b.Timeout, b.Concurrency)
	const want = "1h0m0s 5s 3/exchange/x/{topic} true classic map[x-a:b=c x-max-length:10] true" +
		" binary /shop map[Authorization:[Bearer geheim: {}, x] X-A:[b]] [whsec_a whsec_b] 3s 4"
	if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	*b = Broker{
		URL: b.URL, Exchange: b.Exchange, Stream: b.Stream, SubjectPrefix: b.SubjectPrefix, CheckOnly: b.CheckOnly, Accept: b.Accept, TLS: b.TLS,
	}
}

func TestListByVariableAndRepeatedFlag(t *testing.T) {
	t.Parallel()
	l := load(t, "", map[string]string{"OUTBOX_RELAY_PIPELINED": "a.#, b.*"}, nil)
	if want := []string{"a.#", "b.*"}; !slices.Equal(l.Relay.Pipelined, want) {
		t.Errorf("by a variable: got %q, want %q", l.Relay.Pipelined, want)
	}
	l = load(t, "", nil, map[string][]string{"relay.pipelined": {"a.#", "b.*,c"}})
	if want := []string{"a.#", "b.*", "c"}; !slices.Equal(l.Relay.Pipelined, want) {
		t.Errorf("by flags: got %q, want %q", l.Relay.Pipelined, want)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	const file = `databse: {url: x}
database:
  shema: s
  url: postgres://${NOBODY}@h/
relay:
  widnow: 5
  window: many
  window: 6
  memory: 10
  lease-ttl: 1s
  pipelined: [a..b]
broker: amqp://x/
log:
  level: wrn
  format: [text, json]
topology: check
`
	l := load(t, file, map[string]string{"OUTBOX_RELAY_READ_BATCH": "0"}, map[string][]string{"relay.poll_interval": {"5"}})
	l.Require("database.url", "broker.url")
	want := []string{
		`databse (outbox.yaml:1): is not a key; did you mean database?`,
		`database.shema (outbox.yaml:3): is not a key; did you mean database.schema?`,
		`relay.widnow (outbox.yaml:6): is not a key; did you mean relay.window?`,
		`relay.lease-ttl (outbox.yaml:10): is not a key; did you mean relay.lease_ttl?`,
		`broker (outbox.yaml:12): must have keys below it: url, exchange, stream, subject_prefix, topology, unroutable, destination, dop, queue_type, queue_headers, exclusive, ` +
			`heartbeat, reconnect_max, connections, mode, source, request_headers, secrets, timeout, concurrency, tls`,
		`topology (outbox.yaml:16): is not a key; did you mean broker.topology?`,
		`database.url (outbox.yaml:4): names the variable NOBODY, which is not set: set it, or write ${NOBODY:-value}`,
		`broker.url: is not set: give the flag --broker-url, the variable OUTBOX_BROKER_URL or the key in the file; ` +
			`for example amqp://guest:guest@localhost:5672/`,
		`relay.window (outbox.yaml:8): is there twice: remove one of them`,
		`relay.window "many" (outbox.yaml:7): is not a whole number, such as 1000`,
		`relay.memory "10" (outbox.yaml:9): must be 65536 to 1099511627776`,
		`relay.read_batch "0" (variable OUTBOX_RELAY_READ_BATCH): must not be zero; leave the key out for the default`,
		`relay.poll_interval "5" (flag --relay-poll-interval): is not a duration, such as 500ms, 10s or 1m30s`,
		`relay.pipelined "a..b" (outbox.yaml:11): "a..b" has an empty word: dots separate words and stand neither first, last nor twice`,
		`log.level "wrn" (outbox.yaml:14): must be debug, info, warn or error; did you mean warn?`,
		`log.format (outbox.yaml:15): must be a single value`,
	}
	got := problems(t, l)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEmptyURLIsNone(t *testing.T) {
	t.Parallel()
	l := load(t, "database: {url: ''}\nbroker: {url: \"${URL:-}\"}\n", nil, nil)
	l.Require("database.url", "broker.url")
	want := []string{
		"database.url (outbox.yaml:1): is empty: give a value, for example postgres://app:secret@localhost:5432/shop",
		"broker.url (outbox.yaml:2): is empty: give a value, for example amqp://guest:guest@localhost:5672/",
	}
	if got := problems(t, l); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestUnreadableFile(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"not YAML":   {"a: b: c\n", "config"},
		"a list":     {"- a\n", "must have keys below it: database, broker, relay, subscribe, log, routes"},
		"a stray ${": {"relay: {name: '${1'}\n", "has a ${ that does not begin the name of a variable"},
	} {
		l := load(t, tc.text, nil, nil)
		if got := problems(t, l); len(got) != 1 || !strings.Contains(got[0], tc.want) {
			t.Errorf("%s: got %q, want one with %q", name, got, tc.want)
		}
	}
	l := Load(Sources{File: filepath.Join(t.TempDir(), "outbox.yaml"), FileOrigin: "variable OUTBOX_CONFIG"})
	want := []string{`config "outbox.yaml" (variable OUTBOX_CONFIG): cannot be read: no such file or directory`}
	if got := problems(t, l); !slices.Equal(got, want) {
		t.Errorf("missing file: got %q, want %q", got, want)
	}
	for _, text := range []string{"---\n", "# nothing\n", "relay:\nlog: {level: }\n"} {
		if got := problems(t, load(t, text, nil, nil)); got != nil {
			t.Errorf("%q: got %q, want no problem", text, got)
		}
	}
}

func TestRedactHidesSecrets(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"postgres://app@db/shop":                          "postgres://app@db/shop",
		"postgres://app:geheim@db:5432/shop?sslmode=off":  "postgres://app:xxxxx@db:5432/shop?sslmode=off",
		"postgres://app:ge/h@e:im@db/shop":                "postgres://app:xxxxx@db/shop",
		"postgres://app:geheim@a:1,b:2/shop":              "postgres://app:xxxxx@a:1,b:2/shop",
		"postgres://db/shop?user=app&password=geheim&a=b": "postgres://db/shop?user=app&password=xxxxx&a=b",
		"postgres://db/shop?sslpassword=geheim":           "postgres://db/shop?sslpassword=xxxxx",
		"postgres://:geheim@db/":                          "postgres://:xxxxx@db/",
		"host=db password=geheim":                         "xxxxx",
		"geheim@db":                                       "xxxxx",
		"amqps://u:geheim@mq/v?password=geheim":           "amqps://u:xxxxx@mq/v?password=xxxxx",
		"nats://geheim@n:4222":                            "nats://xxxxx@n:4222",
		"nats://a:geheim@n1,nats://b:geheim@n2":           "nats://a:xxxxx@n2",
		"sqlite:/var/lib/shop.db":                         "sqlite:/var/lib/shop.db",
		"stdout:":                                         "stdout:",
		"ftp://u:geheim@h":                                "ftp://u:xxxxx@h",
		"amqp://us/er@x:geheim@h/":                        "amqp://xxxxx@h/",
	} {
		if got := Redact(in); got != want {
			t.Errorf("Redact(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestProblemsShowNoSecret(t *testing.T) {
	t.Parallel()
	l := load(t, "database: {url: 'mysql://u:${PW}@h/d'}\nroutes: {a: {topics: a, tls_key_password: '${PW}', secrets: '${PW}', request_headers: 'A: ${PW}'}}\n", map[string]string{
		"PW": "geheim", "OUTBOX_BROKER_URL": "amqp://u:geheim%zz@h/", "OUTBOX_BROKER_TLS_KEY_PASSWORD": "geheim",
		"OUTBOX_BROKER_SECRETS": "geheim", "OUTBOX_BROKER_REQUEST_HEADERS": "geheim", "OUTBOX_SUBSCRIBE_FORWARD": "https://u:geheim@h/?x=geheim",
	}, map[string][]string{"database.listen_url": {"host=h password=geheim"}})
	for _, key := range []string{"database.url", "broker.url", "broker.tls.key_password", "broker.secrets", "broker.request_headers", "subscribe.forward", "database.listen_url"} {
		l.Fault(key, "is wrong")
	}
	for _, key := range []string{"tls_key_password", "secrets", "request_headers"} {
		l.Routes[0].Fault(l, key, "is wrong")
	}
	got := strings.Join(problems(t, l), "\n")
	if strings.Contains(got, "geheim") {
		t.Errorf("a password is shown:\n%s", got)
	}
	const url = "postgres://u:ge%68eim@h/d"
	if got := Scrub("cannot connect to "+url+": password geheim is wrong", url); strings.Contains(got, "eheim") {
		t.Errorf("Scrub leaves %q", got)
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"0": 0, "65536": 65536, "64KiB": 65536, "32MiB": 32 << 20, "32 MiB": 32 << 20, "1GiB": 1 << 30,
		"500KB": 500_000, "2MB": 2_000_000, "1GB": 1_000_000_000, "70000B": 70_000,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) is %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "-1", "1.5MiB", "1TiB", "99999999999GiB", "32mib"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) is %d, want an error", text, got)
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"window", "memory", "read_batch", "name"}
	for have, want := range map[string]string{
		"windwo": "window", "windows": "window", "readbatch": "read_batch", "naem": "name", "Memory": "memory", "zebra": "", "x": "",
	} {
		if got := nearest(have, words); got != want {
			t.Errorf("nearest(%q) is %q, want %q", have, got, want)
		}
	}
}

// The flags of each key show the relay's own default, which a zero stands for.
func TestShownDefaultsAreTheRelaysOwn(t *testing.T) {
	t.Parallel()
	c := load(t, "", nil, nil).Relay
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if c.Window != 1000 || c.LeaseTTL != 10*time.Second || c.DrainTimeout != 10*time.Second || c.PollInterval != time.Second {
		t.Errorf("got %+v", c)
	}
}

func TestValuesOfListsAreAllChecked(t *testing.T) {
	t.Parallel()
	flags := map[string][]string{
		"relay.on_dead":      {"a.#=prk,b..c=park,park"},
		"relay.rates":        {"a=100", "b..c=1/s", "c=0/s", "d=9999999/s", "e=1/d"},
		"relay.rename":       {"a={tpic}", "b"},
		"relay.keep":         {"30"},
		"relay.max_attempts": {"-1"},
		"relay.route":        {"a b"},
		"relay.outboxes":     {"a,b/c,a"},
		"relay.listen":       {"9464"},
		"broker.unroutable":  {"drop"},
	}
	got := strings.Join(problems(t, load(t, "", nil, flags)), "\n")
	for _, want := range []string{
		`"a.#=prk": must be skip, park or block; did you mean park?; "b..c=park": the pattern has an empty word`, `; "park": must be pattern=policy`,
		`"a=100": must be a number of messages, and of what time`, `"b..c=1/s": the pattern has`, `"c=0/s": must be`, `"d=9999999/s": Rates has`, `"e=1/d": must`,
		`"a={tpic}": template "{tpic}" has the field {tpic}`, `"b": must be pattern=template`, "relay.keep \"30\" (flag --relay-keep): must be 0, an age",
		"relay.max_attempts \"-1\"", "relay.route \"a b\" (flag --relay-route): has the character ' '", `has "a" twice`,
		"must be an address with a port number", "must be refuse or accept",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("nothing is said of %q:\n%s", want, got)
		}
	}
	for text, want := range map[string]time.Duration{"0": 0, "forever": relay.Forever, "1d12h": 36 * time.Hour} {
		if l := load(t, "", nil, map[string][]string{"relay.keep": {text}}); l.Err() != nil || l.Relay.Keep != want {
			t.Errorf("relay.keep %s is %v, %v", text, l.Relay.Keep, l.Err())
		}
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	const file = `
broker: {url: stdout:, stream: s, unroutable: accept, tls: {ca: ca.pem, cert: c.pem}, request_headers: ["A: geheim"], secrets: geheim}
routes:
  audit:
    topics: [audit.#, "log.*"]
    tenants: a,b
    headers: {class: "${CLASS}"}
    broker_url: nats://${HOST:-h}:4222
    stream: audits
    rates: [a=2/s, "#=60/m"]
  all: {topics: '#', tenants: ['', c]}
  safe: {topics: '#', tls_ca: own.pem, tls_key_password: geheim}
  hook: {topics: '#', broker_url: 'https://h/', request_headers: ["B: c", "D: e, f"], secrets: [s], mode: batched, source: /s, destination: /queue/q}
`
	l := load(t, file, map[string]string{"CLASS": "x"}, map[string][]string{"broker.exchange": {"e"}, "relay.rates": {"b=3/s"}})
	if got := problems(t, l); got != nil || len(l.Routes) != 4 {
		t.Fatal(l.Routes, got)
	}
	for i, want := range []string{"map[] [] structured /outbox /topic/{topic}", "map[A:[geheim]] [geheim] structured /outbox /topic/{topic}",
		"map[A:[geheim]] [geheim] structured /outbox /topic/{topic}", "map[B:[c] D:[e, f]] [s] batched /s /queue/q"} {
		b := &l.Routes[i].Broker
		if got := fmt.Sprintln(b.RequestHeaders, b.Secrets, b.Mode, b.Source, b.Destination); got != want+"\n" {
			t.Errorf("route %s has %s, want %s", l.Routes[i].Name, got, want)
		}
		*b = Broker{URL: b.URL, Exchange: b.Exchange, Stream: b.Stream, SubjectPrefix: b.SubjectPrefix, CheckOnly: b.CheckOnly, Accept: b.Accept, TLS: b.TLS}
	}
	common, own := TLS{CA: "ca.pem", Cert: "c.pem"}, TLS{CA: "own.pem", KeyPassword: "geheim"}
	for i, want := range []TLS{common, common, own} {
		if got := l.Routes[i].Broker.TLS; got != want {
			t.Errorf("route %s: TLS is %+v, want %+v", l.Routes[i].Name, got, want)
		}
		l.Routes[i].Broker.TLS = TLS{}
	}
	got := fmt.Sprintf("%+v %+v\n%+v %+v", l.Routes[0].Route, l.Routes[0].Broker, l.Routes[1].Route, l.Routes[1].Broker)
	if text := fmt.Sprint(l.Routes[0].Rates, l.Routes[1].Rates, l.Relay.Rates); text != "[{a 2} {# 1}] [{b 3}] [{b 3}]" {
		t.Errorf("rates are %s", text)
	}
	const noTLS = "{CA: Cert: Key: KeyPassword: ServerName:}"
	const want = "{Name:audit Topics:[audit.# log.*] Tenants:[a,b] Headers:map[class:x]} " +
		"{URL:nats://h:4222 Exchange:e Stream:audits SubjectPrefix:outbox. CheckOnly:false Accept:true TLS:" + noTLS + noOther + "}\n" +
		"{Name:all Topics:[#] Tenants:[ c] Headers:map[]} {URL:stdout: Exchange:e Stream:s SubjectPrefix:outbox. CheckOnly:false Accept:true TLS:" + noTLS + noOther + "}"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestRoutesNeedConditions: what is empty by mistake would take all messages.
func TestRoutesNeedConditions(t *testing.T) {
	t.Parallel()
	const file = `routes:
  a: {topics: []}
  b: {tenants: }
  c: {headers: {class: }}
  d: {headers: {class: "${CLASS:-}"}}
  e: {headers: {}}
  f: {broker_url: stdout:}
  g: {topics: "#", broker_url: "${URL:-}"}
  h: {tenants: [null]}
  i: {}
  j:
`
	const empty = "is empty: give a value, or leave the key out"
	const none = "has no condition, topics, tenants or headers: write topics: ['#'] for all messages"
	want := []string{
		`routes.a.topics (outbox.yaml:2): ` + empty, `routes.b.tenants (outbox.yaml:3): ` + empty, `routes.c.headers.class (outbox.yaml:4): ` + empty,
		`routes.d.headers.class (outbox.yaml:5): ` + empty, `routes.e.headers (outbox.yaml:6): must have the names of headers below it, each with its value`,
		`routes.f (outbox.yaml:7): ` + none, `routes.g.broker_url (outbox.yaml:8): ` + empty, `routes.h.tenants (outbox.yaml:9): ` + empty,
		`routes.i (outbox.yaml:10): ` + none,
		`routes.j (outbox.yaml:11): must have keys below it: ` + strings.Join(routeWords(), ", "),
	}
	if got := problems(t, load(t, file, nil, nil)); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRouteProblemsNameTheirLines(t *testing.T) {
	t.Parallel()
	const file = `routes:
  a b:
    topics: a..b
  audit:
    topcis: [a]
    stream: [a, b]
    stream: c
    headers: [x]
    broker_url: mysql://u:geheim@h
    unroutable: drop
    rates: a
  audit:
  list: [a]
`
	l := load(t, file, nil, nil)
	if len(l.Routes) == 3 {
		l.Routes[1].Fault(l, "broker_url", "is wrong")
	}
	want := []string{
		`routes.a b (outbox.yaml:2): the name has the character ' ': letters, digits, _, - and . are allowed`,
		`routes.audit.topcis (outbox.yaml:5): is not a key; did you mean topics?`,
		`routes.audit.stream (outbox.yaml:7): is there twice: remove one of them`,
		`routes.audit.headers (outbox.yaml:8): must have the names of headers below it, each with its value`,
		`routes.audit (outbox.yaml:12): is there twice: remove one of them`,
		`routes.list (outbox.yaml:13): must have keys below it: topics, tenants, headers, broker_url, exchange, stream, subject_prefix, unroutable, destination, mode, source, request_headers, secrets, tls_ca, tls_cert, tls_key, tls_key_password, tls_server_name, rates`,
		`routes.a b.topics "a..b" (outbox.yaml:3): "a..b" has an empty word: dots separate words and stand neither first, last nor twice`,
		`routes.audit.stream "a,b" (outbox.yaml:6): must be a single value`,
		`routes.audit.unroutable "drop" (outbox.yaml:10): must be refuse or accept`,
		`routes.audit.rates "a" (outbox.yaml:11): has "a": must be pattern=number/s`,
		`routes.audit.broker_url "mysql://u:xxxxx@h" (outbox.yaml:9): is wrong`,
	}
	if got := problems(t, l); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestWrongValuesOfBrokersAndSubscriptions: each error says what would be right, and
// none shows a header.
func TestWrongValuesOfBrokersAndSubscriptions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ key, value, want string }{
		{"broker.dop", "true", "must be no or yes"},
		{"broker.queue_type", "stream", "must be quorum or classic"},
		{"broker.queue_headers", "x", `has "x": must be name=value`},
		{"broker.heartbeat", "0s", "must be at least 1ms"},
		{"broker.reconnect_max", "5", "is not a duration"},
		{"broker.mode", "batch", "must be structured, binary or batched; did you mean batched?"},
		{"broker.request_headers", "Authorization geheim", "has no colon in header 1"},
		{"broker.request_headers", "A: b\nB C: geheim", "has no name in header 2"},
		{"broker.request_headers", "A: \x01geheim", "has a control character in the value of A"},
		{"broker.connections", "17", "must be 1 to 16"},
		{"broker.concurrency", "0", "must be 1 to 1000"},
		{"broker.timeout", "soon", "is not a duration"},
		{"relay.refused_backoff", "0s", "must not be zero"},
		{"relay.max_refused_backoff", "500ms", "must be at least 1s"},
		{"relay.max_refused_backoff", "x", "is not a duration"},
		{"subscribe.concurrency", "many", "is not a whole number"},
		{"subscribe.prefetch", "70000", "must be 1 to 65535"},
		{"subscribe.retries", "1s,25h", `has "25h": each wait must be 0s to 24h`},
		{"subscribe.retries", "soon", `has "soon", which is not a duration`},
		{"subscribe.retries", strings.Repeat("1s,", 17), "has 17 waits, at most 16"},
		{"subscribe.max_attempts", "1001", "must be 1 to 1000"},
		{"subscribe.in_order", "maybe", "must be no or yes"},
		{"subscribe.inbox_keep", "0", "must be an age such as 30d or 36h, or forever"},
	} {
		got := problems(t, load(t, "", nil, map[string][]string{tc.key: {tc.value}}))
		if len(got) != 1 || !strings.HasPrefix(got[0], tc.key+" ") || !strings.Contains(got[0], tc.want) || strings.Contains(got[0], "geheim") {
			t.Errorf("%s %q: %q, want %q", tc.key, tc.value, got, tc.want)
		}
	}
	if got := problems(t, load(t, "relay: {refused_backoff: 10m}", nil, nil)); got != nil {
		t.Errorf("a back-off that is longer than the longest by default: %q", got)
	}
	if l := load(t, "", map[string]string{"OUTBOX_SUBSCRIBE_INBOX_KEEP": "forever"}, nil); l.Subscribe.InboxKeep >= 0 {
		t.Errorf("forever is %v", l.Subscribe.InboxKeep)
	}
}
