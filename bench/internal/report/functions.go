package report

// Benchmark names Go benchmarks whose figures are in the report.
type Benchmark struct {
	Dir   string   // from the root of the repository
	Names []string // of the functions, without Benchmark
}

// Benchmarks are the hot functions: what every message passes on its way.
var Benchmarks = []Benchmark{
	{".", []string{"Prepare", "MatchTopic"}},
	{"relay", []string{"Queue", "Relay"}},
	{"store/pgxstore", []string{"Read", "Settle"}},
	{"store/sqlstore", []string{"SQLiteRead", "SQLiteSettle"}},
	{"broker/rabbitmq", []string{"Encode", "Decode", "Window", "Ledger"}},
	{"broker/natsjs", []string{"Header", "Answer", "Decode", "Settle"}},
	{"broker/stomp/internal/stomp", []string{"Encode", "Decode"}},
}

// functions has no systems of its own: each benchmark is one.
var functions = Section{
	ID: "functions", Title: "Hot functions",
	Text: `
By Go's benchmarks. An operation is one message, but for SQLite's, where it is a page or a batch of them. With a server the time
includes its work; how much of the processor's time is the server's stands beside it.`,
	Columns: []Column{
		{"time, ns", "ns/op", Nanoseconds},
		{"CPU of the server, ns", "server-ns/op", Nanoseconds},
		{"allocations", "allocs/op", Count},
		{"bytes", "B/op", Count},
	},
}
