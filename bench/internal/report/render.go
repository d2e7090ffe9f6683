package report

import (
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
)

//go:embed benchmarks.md.tmpl
var page string

var pageTemplate = template.Must(template.New("benchmarks.md").Parse(page))

// view is what the template sees.
type view struct {
	Targets    []targetView
	Conditions []conditionsView
	Sections   []sectionView
}

type targetView struct{ ID, Section, What, Wanted, Measured, Reached string }

// conditionsView is a set of conditions with the sections that were measured under it.
type conditionsView struct {
	Sections []string
	List     []Condition
}

type sectionView struct {
	ID, Title, Text string
	When            string // empty if the section was not measured
	Commands        []string
	Table           table
	Comparisons     []targetView
}

// table is a table of Markdown.
type table struct {
	Head []string
	Rows [][]string
}

// Write writes the page that results are to be read on.
func Write(w io.Writer, results Results) error {
	var v view
	for i := range Sections {
		s := &Sections[i]
		m := results[s.ID]
		shown := s.view(m)
		v.Sections = append(v.Sections, shown)
		for _, t := range shown.Comparisons {
			if t.Wanted != "" {
				v.Targets = append(v.Targets, t)
			}
		}
		if m != nil {
			v.addConditions(s.Title, m.Conditions)
		}
	}
	return pageTemplate.Execute(w, &v)
}

func (v *view) addConditions(section string, list []Condition) {
	for i := range v.Conditions {
		if slices.Equal(v.Conditions[i].List, list) {
			v.Conditions[i].Sections = append(v.Conditions[i].Sections, section)
			return
		}
	}
	v.Conditions = append(v.Conditions, conditionsView{[]string{section}, list})
}

func (s *Section) view(m *Measurement) sectionView {
	v := sectionView{ID: s.ID, Title: s.Title, Text: strings.TrimSpace(s.Text)}
	if m == nil {
		m = &Measurement{}
	} else {
		v.When = fmt.Sprintf("%s, %s, commit `%s`", m.At.UTC().Format("2006-01-02"), plural(m.Rounds, "round"), m.Commit)
	}
	v.Table.Head = []string{""}
	for _, c := range s.Columns {
		v.Table.Head = append(v.Table.Head, c.Title)
	}
	systems := s.systems(m)
	for i := range systems {
		row := []string{systems[i].Title}
		for _, c := range s.Columns {
			row = append(row, m.spread(Figure{systems[i].ID, c.Value}).format(c.Unit))
		}
		v.Table.Rows = append(v.Table.Rows, row)
		if command := m.Commands[systems[i].ID]; command != "" && !slices.Contains(v.Commands, command) {
			v.Commands = append(v.Commands, command)
		}
	}
	for i := range s.Comparisons {
		v.Comparisons = append(v.Comparisons, s.target(&s.Comparisons[i], m))
	}
	return v
}

// systems returns the systems of the section, and behind them what was measured beside.
func (s *Section) systems(m *Measurement) []System {
	list := slices.Clone(s.Systems)
	for i := range m.Runs {
		id := m.Runs[i].System
		if !slices.ContainsFunc(list, func(known System) bool { return known.ID == id }) {
			list = append(list, System{ID: id, Title: "`" + id + "`"})
		}
	}
	return list
}

func (s *Section) target(c *Comparison, m *Measurement) targetView {
	spread := m.compare(c)
	t := targetView{ID: s.ID, Section: s.Title, What: c.Title, Measured: spread.format(c.Unit)}
	switch {
	case c.AtLeast > 0:
		t.Wanted = "at least " + c.wanted(c.AtLeast)
	case c.AtMost > 0:
		t.Wanted = "at most " + c.wanted(c.AtMost)
	default:
		return t
	}
	switch {
	case spread.Rounds == 0:
		t.Reached = "not measured"
	case !s.enough(m.Rounds):
		t.Reached = "too few rounds"
	case c.Reached(spread):
		t.Reached = "yes"
	default:
		t.Reached = "**no**"
	}
	return t
}

// wanted writes a target without the zeros of a measured value.
func (c *Comparison) wanted(value float64) string {
	text := c.Unit.format(value)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + c.Unit.suffix()
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// line is a row of Markdown.
func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

// String writes the table: text to the left, figures to the right.
func (t table) String() string {
	rule := "|---|" + strings.Repeat("---:|", len(t.Head)-1)
	lines := []string{line(t.Head), rule}
	for _, row := range t.Rows {
		lines = append(lines, line(row))
	}
	return strings.Join(lines, "\n")
}
