package report

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// measured returns a measurement with the rates of two systems by round.
func measured(ours, limit []float64) *Measurement {
	m := &Measurement{At: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), Commit: "abc", Rounds: len(ours)}
	for round := range ours {
		m.Runs = append(m.Runs,
			Run{Round: round, System: "ours", Values: map[string]float64{Rate: ours[round]}},
			Run{Round: round, System: "limit", Values: map[string]float64{Rate: limit[round]}})
	}
	return m
}

func TestSpreadIsTheMedianAndTheExtremes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{9, 1, 5}, Spread{5, 1, 9, 3}},
		{[]float64{9, 1, 5, 6}, Spread{5.5, 1, 9, 4}},
	} {
		if diff := cmp.Diff(c.want, spreadOf(c.values)); diff != "" {
			t.Errorf("%v: (-want +got)\n%s", c.values, diff)
		}
	}
}

// TestRatiosAreOfRounds has rounds that differ much, so that the ratio of the medians
// would be 2/3.
func TestRatiosAreOfRounds(t *testing.T) {
	t.Parallel()
	m := measured([]float64{30, 20, 10}, []float64{120, 20, 30})
	c := Comparison{Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}}
	if diff := cmp.Diff(Spread{1.0 / 3, 0.25, 1, 3}, m.compare(&c)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRatioLeavesOutRoundsOfOneSide(t *testing.T) {
	t.Parallel()
	m := measured([]float64{90, 45}, []float64{100, 50})
	m.Runs = m.Runs[:3] // the second round has no limit
	c := Comparison{Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}}
	if s := m.compare(&c); s.Rounds != 1 || s.Median != 0.9 {
		t.Errorf("got %+v, want 0.9 of one round", s)
	}
}

// TestSpreadOfAProgramWithRounds is of a program that reports the extremes itself.
func TestSpreadOfAProgramWithRounds(t *testing.T) {
	t.Parallel()
	m := &Measurement{Runs: []Run{{System: "emit", Values: map[string]float64{"tps": 5, "tps_min": 3, "tps_max": 8}}}}
	if diff := cmp.Diff(Spread{5, 3, 8, 1}, m.spread(Figure{"emit", "tps"})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	m := measured([]float64{90, 85, 80, 75, 70}, []float64{100, 100, 100, 100, 100})
	ratio := Comparison{Title: "r", Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}}
	s := Section{ID: "s", Title: "S"}
	for _, c := range []struct {
		atLeast, atMost float64
		want            string
	}{{0.8, 0, "yes"}, {0.81, 0, "**no**"}, {0, 0.8, "yes"}, {0, 0.79, "**no**"}, {0, 0, ""}} {
		ratio.AtLeast, ratio.AtMost = c.atLeast, c.atMost
		got := s.target(&ratio, m)
		if got.Reached != c.want || got.Measured != "0.800 (0.700–0.900)" {
			t.Errorf("at least %v, at most %v: got %q of %s, want %q", c.atLeast, c.atMost, got.Reached, got.Measured, c.want)
		}
		if got = s.target(&ratio, &Measurement{}); c.want != "" && got.Reached != "not measured" {
			t.Errorf("without a measurement: %q", got.Reached)
		}
	}
}

func TestFiguresAreWrittenForPeople(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unit  Unit
		value float64
		want  string
	}{
		{PerSecond, 34712.4, "34,700"}, {PerSecond, 1234567, "1,230,000"}, {PerSecond, 999, "999"}, {PerSecond, 4.56, "4.6"},
		{Count, 0, "0"}, {Count, 12345, "12,345"}, {Ratio, 0.8996, "0.900"}, {Ratio, 3.456, "3.46"},
		{MiB, 64 << 20, "64.0"}, {Milliseconds, 0.5234, "0.52"}, {Nanoseconds, 12.34, "12.3"}, {Nanoseconds, 1234, "1,230"},
	} {
		if got := c.unit.format(c.value); got != c.want {
			t.Errorf("%v in unit %d: %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

// TestFewRoundsDecideNothing has one round less than what decides, in a section that has
// all rounds and in one that has three.
func TestFewRoundsDecideNothing(t *testing.T) {
	t.Parallel()
	ratio := Comparison{Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}, AtLeast: 0.5}
	for _, c := range []struct {
		section, rounds int
		want            string
	}{{0, 4, "too few rounds"}, {0, 5, "yes"}, {3, 2, "too few rounds"}, {3, 3, "yes"}} {
		s := Section{Rounds: c.section}
		rates := slices.Repeat([]float64{1}, c.rounds)
		if got := s.target(&ratio, measured(rates, rates)).Reached; got != c.want {
			t.Errorf("%d rounds where the section has %d: %q, want %q", c.rounds, c.section, got, c.want)
		}
	}
}

// TestPageShowsWhatWasMeasured looks for each part of the page, and for what was not
// measured.
func TestPageShowsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	m := measured([]float64{36000, 27000, 30000, 30000, 30000}, []float64{40000, 40000, 40000, 40000, 40000})
	m.Conditions = []Condition{{"processor", "a fast one"}}
	m.Commands = map[string]string{"ours": "outbox bench drain"}
	m.Runs = append(m.Runs, Run{System: "one more", Values: map[string]float64{Rate: 77}})
	var page strings.Builder
	if err := Write(&page, Results{"drain-quorum": m}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"](#drain-quorum): outbox to `limit` | at least 0.9 | 0.750 (0.675–0.900) | **no** |",
		"](#drain-quorum): outbox to River | at least 3 | – | not measured |",
		"| processor | a fast one |",
		"\n2026-11-22, 5 rounds, commit `abc`:\n\n```sh\noutbox bench drain\n```\n",
		"| **outbox**, 10,000 keys, strict | 30,000 (27,000–36,000) |",
		"| `one more` | 77.0 |",
		"\n\n<a id=\"idle\"></a>\n## An idle relay\n",
		"Not measured yet.",
		"at most 64 MiB",
	} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page.String(), "\n\n\n") || t.Failed() {
		t.Errorf("empty lines in a row, or what is said above:\n%s", &page)
	}
}

// TestSectionsAreSound finds what a slip in their table would hide until the end of a
// measurement: comparisons of systems that nothing runs, and names that are used twice.
func TestSectionsAreSound(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, s := range Sections {
		if known[s.ID] {
			t.Errorf("two sections are called %q", s.ID)
		}
		known[s.ID] = true
		systems := map[string]bool{}
		for _, system := range s.Systems {
			if systems[system.ID] {
				t.Errorf("%s: two systems are called %q", s.ID, system.ID)
			}
			systems[system.ID] = true
			if len(system.Command) > 0 && !slices.Contains([]string{"outbox", "peer"}, system.Command[0]) {
				t.Errorf("%s: %q is no program", s.ID, system.Command[0])
			}
		}
		for _, c := range s.Comparisons {
			for _, f := range []Figure{c.Of, c.To} {
				if f != (Figure{}) && !systems[f.System] {
					t.Errorf("%s: %q compares %q, which is no system", s.ID, c.Title, f.System)
				}
			}
		}
	}
}

func TestResultsAreKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "results.json")
	none, err := Read(path)
	if err != nil || len(none) != 0 {
		t.Fatalf("of no file: %v, %v", none, err)
	}
	want := Results{"drain-quorum": measured([]float64{1}, []float64{2})}
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
