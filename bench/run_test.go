package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox/bench/internal/report"
)

// section measures a section whose systems are all programs: each round runs each of
// them once, and each round begins with another one.
func (b *bed) section(ctx context.Context, s *report.Section) ([]report.Run, error) {
	var runs []report.Run
	systems := slices.DeleteFunc(slices.Clone(s.Systems), func(s report.System) bool { return len(s.Command) == 0 })
	for round := range b.rounds(s) {
		first := round % len(systems)
		for _, system := range slices.Concat(systems[first:], systems[:first]) {
			b.calm()
			got, err := b.run(ctx, &system, round)
			if err != nil {
				return nil, fmt.Errorf("round %d, %s: %w", round+1, system.ID, err)
			}
			runs = append(runs, got...)
		}
	}
	return runs, nil
}

// rounds returns how many rounds a section has.
func (b *bed) rounds(s *report.Section) int {
	switch {
	case s.OwnRounds:
		return 1
	case s.Rounds > 0:
		return min(s.Rounds, b.size.rounds)
	}
	return b.size.rounds
}

// run runs a system once.
func (b *bed) run(ctx context.Context, s *report.System, round int) ([]report.Run, error) {
	ctx, cancel := context.WithTimeout(ctx, b.size.patience)
	defer cancel()
	args := b.arguments(s)
	cmd := exec.CommandContext(ctx, b.programs[args[0]], b.expand(args[1:])...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	runs, err := parse(s.ID, round, stdout.Bytes())
	if err == nil {
		err = judge(s, runs)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	b.t.Logf("round %d, %s, %.1fs: %s", round+1, s.ID, time.Since(began).Seconds(), summary(runs[0].Values))
	return runs, nil
}

// calm lets a run begin as the others do: what the last one left to be written is
// written.
func (b *bed) calm() {
	b.pg.Exec(b.pg.URL(), "CHECKPOINT")
	time.Sleep(b.size.rest)
}

// arguments returns the command of a system, with names instead of addresses.
func (b *bed) arguments(s *report.System) []string {
	args := slices.Clone(s.Command)
	messages := s.Messages
	if messages > 0 && b.size.messages > 0 {
		messages = b.size.messages
	}
	if messages > 0 {
		args = append(args, "--messages", strconv.Itoa(messages))
	}
	for i := range args[:len(args)-1] {
		if value, ok := b.size.flags[args[i]]; ok {
			args[i+1] = value
		}
	}
	if args[0] == "outbox" && args[1] == "bench" {
		args = append(args, "--json")
	}
	return args
}

// shown returns the commands of a section's systems, to be read by people.
func (b *bed) shown(s *report.Section) map[string]string {
	commands := map[string]string{}
	for _, system := range s.Systems {
		if len(system.Command) > 0 {
			text := strings.Join(b.arguments(&system), " ")
			commands[system.ID] = strings.ReplaceAll(text, "$ROUNDS", b.addresses["ROUNDS"])
		}
	}
	return commands
}

func (b *bed) expand(args []string) []string {
	expanded := make([]string, len(args))
	for i, arg := range args {
		expanded[i] = os.Expand(arg, func(name string) string { return b.addresses[name] })
	}
	return expanded
}

// parse reads the JSON object that a program has printed last. Its numbers are the values;
// the variants that it has measured are systems of their own.
func parse(system string, round int, output []byte) ([]report.Run, error) {
	lines := bytes.Split(bytes.TrimSpace(output), []byte("\n"))
	var object map[string]any
	if err := json.Unmarshal(lines[len(lines)-1], &object); err != nil {
		return nil, fmt.Errorf("the last line of the output is no JSON object: %w", err)
	}
	runs := []report.Run{{Round: round, System: system, Values: values(object)}}
	variants, _ := object["variants"].([]any)
	for _, v := range variants {
		variant, _ := v.(map[string]any)
		name, _ := variant["name"].(string)
		if name == "" {
			return nil, errors.New("a variant has no name")
		}
		runs = append(runs, report.Run{Round: round, System: name, Values: values(variant)})
	}
	return runs, nil
}

// values returns the numbers of an object, and what follows from them.
func values(object map[string]any) map[string]float64 {
	found := map[string]float64{}
	for name, value := range object {
		switch v := value.(type) {
		case float64:
			found[name] = v
		case map[string]any: // the spread of a figure
			for part, suffix := range map[string]string{"median": "", "min": "_min", "max": "_max"} {
				if number, ok := v[part].(float64); ok {
					found[name+suffix] = number
				}
			}
		case []any:
			if name == "tenths" {
				tenths(v, found)
			}
		}
	}
	if seconds, ok := found["cpu_seconds"]; ok && found["delivered"] > 0 {
		found[report.CPUPerMessage] = seconds / found["delivered"] * 1e6
	}
	return found
}

func tenths(rates []any, found map[string]float64) {
	const all = 10
	if len(rates) != all {
		return
	}
	for i, rate := range rates {
		found[fmt.Sprintf("tenth_%d", i+1)], _ = rate.(float64)
	}
	if first := found["tenth_1"]; first > 0 {
		found[report.Fading] = found["tenth_10"] / first
	}
}

// judge returns an error if a run did not do what its figures are of.
func judge(s *report.System, runs []report.Run) error {
	var wrong []string
	for _, name := range []string{"lost", "phantom", report.OutOfOrder} {
		if count := runs[0].Values[name]; count > 0 && !(s.AnyOrder && name == report.OutOfOrder) {
			wrong = append(wrong, fmt.Sprintf("%s: %.0f", name, count))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("a run with messages %s counts for nothing", strings.Join(wrong, ", "))
	}
	return nil
}

// summary shows how a long measurement goes.
func summary(values map[string]float64) string {
	var parts []string
	for _, name := range []string{report.Rate, report.Fading, report.P50, report.P99, report.RelayPeak, "duplicates"} {
		if value, ok := values[name]; ok {
			parts = append(parts, fmt.Sprintf("%s %.5g", name, value))
		}
	}
	return strings.Join(parts, ", ")
}

// complete returns an error for each figure that a section compares and no run has.
func complete(s *report.Section, m *report.Measurement) error {
	var missing []error
	for _, c := range s.Comparisons {
		for _, f := range []report.Figure{c.Of, c.To} {
			if f != (report.Figure{}) && !m.Has(f) {
				missing = append(missing, fmt.Errorf("no run of %q has measured %q", f.System, f.Value))
			}
		}
	}
	return errors.Join(missing...)
}
