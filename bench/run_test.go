package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox/bench/internal/report"
	"github.com/outbox-go/outbox/bench/internal/work"
)

// section measures a section whose systems are all programs: each round runs each of
// them once, in an order of its own. In the same order, though it began elsewhere, each
// would always bear what the one before it has left.
func (b *bed) section(ctx context.Context, s *report.Section) ([]report.Run, error) {
	var runs []report.Run
	systems := slices.DeleteFunc(slices.Clone(s.Systems), func(s report.System) bool { return len(s.Command) == 0 })
	for round := range b.rounds(s) {
		for _, at := range rand.New(rand.NewPCG(uint64(round), 0)).Perm(len(systems)) { //nolint:gosec // a number from 0, and no secret
			system := &systems[at]
			b.calm()
			got, err := b.run(ctx, system, round)
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
	cmd := b.command(ctx, args)
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

// variables are those that a program takes addresses from instead of flags: an address
// has a password, and everybody can read a command line. `outbox bench` is told by
// flags, the addresses of servers that are the measurement's own and end with it.
var variables = map[string]map[string]string{
	"peer":           {"--database-url": work.DatabaseVariable, "--broker-url": work.BrokerVariable},
	"outbox relay":   {"--database-url": "OUTBOX_DATABASE_URL", "--broker-url": "OUTBOX_BROKER_URL"},
	"outbox migrate": {"--database-url": "OUTBOX_DATABASE_URL"},
}

// command returns a program that is to be run with arguments in which names stand for
// addresses.
func (b *bed) command(ctx context.Context, args []string) *exec.Cmd {
	instead := variables[args[0]]
	if args[0] == "outbox" {
		instead = variables["outbox "+args[1]]
	}
	env := os.Environ()
	var left []string
	expanded := b.expand(args)
	for at := 1; at < len(expanded); at++ {
		if variable, ok := instead[expanded[at]]; ok && at+1 < len(expanded) {
			env = append(env, variable+"="+expanded[at+1])
			at++
			continue
		}
		left = append(left, expanded[at])
	}
	cmd := exec.CommandContext(ctx, b.programs[args[0]], left...) //nolint:gosec // a program of ours
	cmd.Env = env
	return cmd
}

// calm lets a run begin as the others do: what the last one left to be written is
// written.
func (b *bed) calm() {
	if b.pg != nil {
		b.pg.Exec(b.pg.URL(), "CHECKPOINT")
	}
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
			commands[system.ID] = strings.ReplaceAll(text, "$SLICES", b.addresses["SLICES"])
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
	for _, name := range []string{report.Rate, report.Fading, report.P50, report.P99, report.RelayPeak, report.Duplicates} {
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
