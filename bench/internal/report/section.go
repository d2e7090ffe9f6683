package report

import "strings"

// Section is a part of the report: systems that are run in turn, what is shown of
// them, and how they compare.
type Section struct {
	ID    string // what -only names
	Title string
	Text  string // how it is measured and what is fair about it, in Markdown

	// Rounds is the greatest number of rounds, for what takes long and hardly varies. 0
	// stands for as many as are asked for.
	Rounds int

	// OwnRounds says that the program does all rounds in one run, by --rounds $SLICES:
	// SlicesPerRound for each that is asked for, since they are short.
	OwnRounds bool

	Systems     []System
	Columns     []Column
	Comparisons []Comparison
}

// SlicesPerRound is how many rounds of slices a program that does all rounds itself does
// for each of the others': twenty-five slices of 0.7 s tell three percent apart, five do not.
const SlicesPerRound = 5

// EnoughRounds is how many rounds decide whether a target is reached, unless the section
// says that it has fewer.
const EnoughRounds = 5

// enough reports whether so many rounds decide.
func (s *Section) enough(rounds int) bool {
	needed := EnoughRounds
	if s.Rounds > 0 {
		needed = min(needed, s.Rounds)
	}
	return rounds >= needed
}

// System is one of the things that a section runs. Its ID is "ours" or the like, of
// the section alone.
type System struct {
	ID, Title string

	// Command is the program, outbox or peer, and its arguments, in which $DATABASE_URL,
	// $RABBITMQ_URL and $NATS_URL stand for addresses. It is empty where another
	// system's run measures this one, too, or the harness itself does.
	Command []string

	// Messages is what --messages is given, if any.
	Messages int

	// AnyOrder says that the system does not keep the order by key: out of order is
	// then counted and no failure.
	AnyOrder bool
}

// Column shows a value of every system.
type Column struct {
	Title string
	Value string
	Unit  Unit
}

// Figure is a value of a system.
type Figure struct{ System, Value string }

// Comparison is a ratio of two figures in the same round or, without To, a figure.
type Comparison struct {
	Title  string
	Of, To Figure
	Unit   Unit // of a figure

	// AtLeast and AtMost are the target, zero for none.
	AtLeast, AtMost float64
}

// Reached reports whether the median is what was wanted.
func (c *Comparison) Reached(s Spread) bool {
	return s.Rounds > 0 && s.Median >= c.AtLeast && (c.AtMost == 0 || s.Median <= c.AtMost)
}

// Values that the harness computes from what the programs print.
const (
	Rate          = "messages_per_second"
	P50           = "latency_p50_ms"
	P99           = "latency_p99_ms"
	OutOfOrder    = "out_of_order"
	Duplicates    = "duplicates"
	Fading        = "last_tenth_to_first"
	CPUPerMessage = "cpu_us_per_message" // of the program that was run, relay and consumer
	RelayPeak     = "relay_peak_rss_bytes"
	IdleCPU       = "cpu_percent"
	IdleQueries   = "queries_per_second"
)

// outbox and peer return the command of a program.
func outbox(args string) []string { return append([]string{"outbox"}, strings.Fields(args)...) }
func peer(args string) []string   { return append([]string{"peer"}, strings.Fields(args)...) }
