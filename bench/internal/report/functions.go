package report

// Benchmark names Go benchmarks whose figures are in the report.
type Benchmark struct {
	Dir   string   // from the root of the repository
	Names []string // of the functions, without Benchmark
}

// Benchmarks are the hot functions: what every message passes on its way.
var Benchmarks = []Benchmark{
	{".", []string{"Prepare", "MatchTopic"}},
	{"relay", []string{"Queue"}},
	{"store/pgxstore", []string{"Read", "Settle"}},
	{"broker/stomp/internal/stomp", []string{"Encode", "Decode"}},
}

// functions has no systems of its own: each benchmark is one.
var functions = Section{
	ID: "functions", Title: "Hot functions",
	Text: `One operation of each, by Go's benchmarks; those of the stores include the server's part.`,
	Columns: []Column{
		{"time, ns", "ns/op", Nanoseconds},
		{"allocations", "allocs/op", Count},
		{"bytes", "B/op", Count},
	},
}
