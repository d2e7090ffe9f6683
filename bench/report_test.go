package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outbox-go/outbox/bench/internal/report"
)

var (
	write    = flag.String("write", "", "measure in full and write the report into this file")
	raw      = flag.String("raw", "results.json", "with -write: the file for all that was measured")
	merge    = flag.Bool("merge", false, "with -write: keep what -raw has of the sections that are not measured now")
	render   = flag.Bool("render", false, "with -write: measure nothing, write what -raw has")
	rounds   = flag.Int("rounds", 0, "rounds, 0 for 5 with -write and 1 without")
	messages = flag.Int("messages", 0, "messages of each run, 0 for what the report has")
	only     = flag.String("only", "", "sections to measure, separated by commas: their names or what these begin with, such as drain")
)

// TestReport runs every section of the report. With -write it measures in full, which
// takes about an hour, and writes the report; without, it shows within a minute that
// everything runs and that there is something to report:
//
//	go test -count=1 -run TestReport -timeout 3h -args -write ../docs/benchmarks.md
//
// A section of which a run fails fails the test and has no figures, or with -merge its
// old ones; the other sections are measured all the same. What was measured is saved
// after each section, so that after an interruption -merge and -only do the rest.
func TestReport(t *testing.T) {
	results := report.Results{}
	if *write != "" && (*merge || *render) {
		var err error
		results, err = report.Read(*raw)
		must(t, err)
	}
	if !*render {
		measureAll(t, results)
	}
	if *write != "" {
		must(t, save(results))
		return
	}
	var page strings.Builder
	must(t, report.Write(&page, results))
	if left := strings.Count(page.String(), "\nNot measured yet.\n"); left != len(sizeOf().repeats) && *only == "" && !t.Failed() {
		t.Errorf("%d sections were not measured:\n%s", left, &page)
	}
}

func measureAll(t *testing.T, results report.Results) {
	chosen, err := choose(*only)
	must(t, err)
	b := openBed(t, sizeOf())
	for _, s := range chosen {
		if *only == "" && slices.Contains(b.size.repeats, s.ID) {
			continue
		}
		t.Run(s.ID, func(t *testing.T) {
			m, err := b.measure(t, s)
			if err != nil {
				t.Fatal(err)
			}
			results[s.ID] = m
			if *write != "" {
				must(t, save(results)) // what comes later may fail
			}
		})
	}
}

func sizeOf() size {
	s := small
	if *write != "" {
		s = full
	}
	if *rounds > 0 {
		s.rounds = *rounds
	}
	if *messages > 0 {
		s.messages = *messages
	}
	return s
}

// choose returns the sections whose names are in the list or begin with one of it.
func choose(list string) ([]*report.Section, error) {
	names := strings.Split(list, ",")
	used := map[string]bool{}
	var chosen []*report.Section
	var known []string
	for i := range report.Sections {
		s := &report.Sections[i]
		known = append(known, s.ID)
		at := slices.IndexFunc(names, func(name string) bool {
			return list == "" || s.ID == name || strings.HasPrefix(s.ID, name+"-")
		})
		if at >= 0 {
			used[names[at]] = true
			chosen = append(chosen, s)
		}
	}
	for _, name := range names {
		if !used[name] {
			return nil, fmt.Errorf("-only %q: there is no such section; there are %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// special are the sections that are more than programs run in turn.
var special = map[string]func(*bed, context.Context, *testing.T, *report.Section, *report.Measurement) error{
	"idle":      (*bed).idle,
	"functions": (*bed).functions,
}

func (b *bed) measure(t *testing.T, s *report.Section) (*report.Measurement, error) {
	own := *b
	own.t, b = t, &own
	rounds := b.rounds(s)
	if s.OwnRounds {
		rounds = b.size.rounds * report.SlicesPerRound
	}
	m := &report.Measurement{At: time.Now().UTC().Truncate(time.Second), Commit: b.commit, Rounds: rounds, Conditions: b.machine, Commands: b.shown(s)}
	var err error
	if measure, ok := special[s.ID]; ok {
		err = measure(b, t.Context(), t, s, m)
	} else {
		m.Runs, err = b.section(t.Context(), s)
	}
	if err != nil {
		return nil, err
	}
	return m, complete(s, m)
}

// TestPageIsOfTheResults finds a page that was not written again after a change of words
// or results: -render does it.
func TestPageIsOfTheResults(t *testing.T) {
	t.Parallel()
	results, err := report.Read("results.json")
	must(t, err)
	var want strings.Builder
	must(t, report.Write(&want, results))
	got, err := os.ReadFile("../docs/benchmarks.md")
	must(t, err)
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("docs/benchmarks.md is not what bench/results.json gives (-want +got)\n%s", diff)
	}
}

// save writes the results and the page.
func save(results report.Results) error {
	if err := results.Write(*raw); err != nil {
		return err
	}
	f, err := os.Create(*write)
	if err != nil {
		return err
	}
	if err := report.Write(f, results); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
