package bench

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outbox-go/outbox/bench/internal/report"
)

func TestParseReadsTheLastLine(t *testing.T) {
	t.Parallel()
	const output = `progress
{"delivered":200,"messages_per_second":10.5,"cpu_seconds":2,"tenths":[8,2,2,2,2,2,2,2,2,6],"settings":{"keys":10},"system":"x"}
`
	runs, err := parse("ours", 2, []byte(output))
	must(t, err)
	got := runs[0].Values
	for name, want := range map[string]float64{report.Rate: 10.5, "tenth_1": 8, "tenth_10": 6, report.Fading: 0.75, report.CPUPerMessage: 10_000} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	if len(runs) != 1 || runs[0].Round != 2 || runs[0].System != "ours" {
		t.Errorf("got %+v", runs)
	}
}

func TestParseMakesVariantsSystems(t *testing.T) {
	t.Parallel()
	const output = `{"lost":0,"variants":[{"name":"none","ratio":1},{"name":"emit","transactions_per_second":{"median":5,"min":4,"max":6},"ratio":0.5}]}`
	runs, err := parse("none", 0, []byte(output))
	must(t, err)
	want := []report.Run{
		{System: "none", Values: map[string]float64{"lost": 0}},
		{System: "none", Values: map[string]float64{"ratio": 1}},
		{System: "emit", Values: map[string]float64{"transactions_per_second": 5, "transactions_per_second_min": 4, "transactions_per_second_max": 6, "ratio": 0.5}},
	}
	if diff := cmp.Diff(want, runs); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseWantsJSON(t *testing.T) {
	t.Parallel()
	if _, err := parse("ours", 0, []byte("{}\nbye\n")); err == nil {
		t.Error("an output without a result is taken for one")
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		values   map[string]float64
		anyOrder bool
		want     string // in the error; empty for none
	}{
		{"good", map[string]float64{"lost": 0, "duplicates": 3}, false, ""},
		{"lost", map[string]float64{"lost": 2}, true, "lost: 2"},
		{"phantom", map[string]float64{"phantom": 1}, false, "phantom: 1"},
		{"out of order", map[string]float64{report.OutOfOrder: 1}, false, "out_of_order: 1"},
		{"no order promised", map[string]float64{report.OutOfOrder: 1}, true, ""},
	} {
		err := judge(&report.System{AnyOrder: c.anyOrder}, []report.Run{{Values: c.values}})
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// TestRunWantsSuccess runs a program that prints good figures and fails, and one that
// does not fail and has lost a message.
func TestRunWantsSuccess(t *testing.T) {
	t.Parallel()
	for _, script := range []string{
		"echo '{\"lost\":0}'; echo the reason >&2; exit 1",
		"echo '{\"lost\":1}'; echo the reason >&2",
	} {
		b := &bed{t: t, size: small, programs: map[string]string{"peer": "/bin/sh"}}
		runs, err := b.run(t.Context(), &report.System{ID: "x", Command: []string{"peer", "-c", script}}, 0)
		if len(runs) > 0 || err == nil || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("%s: got %v and %v, want no figures and an error with what was said", script, runs, err)
		}
	}
}

func TestCompleteNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	s := report.Section{Comparisons: []report.Comparison{{Of: report.Figure{System: "ours", Value: "x"}, To: report.Figure{System: "limit", Value: "x"}}}}
	m := &report.Measurement{Runs: []report.Run{{System: "ours", Values: map[string]float64{"x": 1}}}}
	err := complete(&s, m)
	if err == nil || !strings.Contains(err.Error(), `"limit"`) || strings.Contains(err.Error(), `"ours"`) {
		t.Errorf("got %v, want an error that names limit alone", err)
	}
}

func TestParseBenchmarks(t *testing.T) {
	t.Parallel()
	const output = `goos: linux
BenchmarkRead/page-2     	     100	      2500 ns/op	         1.50 cpu-us/row	     512 B/op	       3 allocs/op
BenchmarkRead/page-2     	     100	      2600 ns/op	         1.60 cpu-us/row	     512 B/op	       3 allocs/op
PASS
`
	runs := parseBenchmarks("store/pgxstore", output)
	if len(runs) != 2 || runs[0].System != "store/pgxstore/Read/page" || runs[1].Round != 1 || runs[1].Values["ns/op"] != 2600 || runs[0].Values["cpu-us/row"] != 1.5 {
		t.Errorf("got %+v", runs)
	}
	if system := parseBenchmarks(".", "BenchmarkMatchTopic-2 100 5 ns/op\n")[0].System; system != "MatchTopic" {
		t.Errorf("a function of the root is called %q", system)
	}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	sections, err := choose("latency,idle")
	must(t, err)
	var got []string
	for _, s := range sections {
		got = append(got, s.ID)
	}
	if diff := cmp.Diff([]string{"latency-100", "latency-1000", "idle"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, err := choose("idle,speed"); err == nil || !strings.Contains(err.Error(), `"speed"`) {
		t.Errorf("got %v, want an error that names speed", err)
	}
}
