package report

// Benchmark names Go benchmarks whose figures are in the report.
type Benchmark struct {
	Dir   string   // from the root of the repository
	Names []string // of the functions, without Benchmark
	Time  string   // -benchtime; empty for half a second
}

// Benchmarks are the hot functions: what every message passes on its way.
var Benchmarks = []Benchmark{
	{Dir: ".", Names: []string{"Prepare", "MatchTopic"}},
	{Dir: "relay", Names: []string{"Queue", "Relay"}},
	{Dir: "store/pgxstore", Names: []string{"Read", "Settle"}, Time: "100000x"}, // a backlog that is made first
	{Dir: "store/sqlstore", Names: []string{"SQLiteRead", "SQLiteSettle"}, Time: "100x"},
	{Dir: "broker/rabbitmq", Names: []string{"Encode", "Decode", "Window", "Ledger"}},
	{Dir: "broker/natsjs", Names: []string{"Header", "Answer", "Decode", "Settle"}},
	{Dir: "broker/stomp/internal/stomp", Names: []string{"Encode", "Decode"}},
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
