package bench

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/outbox-go/outbox/bench/internal/report"
)

// TestRoundsTakeTurns has programs note their names: each round has each system once, and
// not always in the same order.
func TestRoundsTakeTurns(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "order")
	b := &bed{t: t, size: size{rounds: 10, patience: small.patience}, programs: map[string]string{"peer": "/bin/sh"}}
	s := report.Section{}
	names := []string{"a", "b", "c"}
	for _, name := range names {
		script := "printf " + name + " >>" + file + "; echo '{\"x\":1}'"
		s.Systems = append(s.Systems, report.System{ID: name, Command: []string{"peer", "-c", script}})
	}
	s.Systems = append(s.Systems, report.System{ID: "beside"}) // that another one's run measures
	runs, err := b.section(t.Context(), &s)
	must(t, err)
	text, err := os.ReadFile(file)
	must(t, err)
	if len(runs) != len(names)*b.size.rounds || len(text) != len(runs) {
		t.Fatalf("%d runs, and programs ran in the order %s", len(runs), text)
	}
	orders := map[string]bool{}
	for round := range b.size.rounds {
		order := text[round*len(names) : (round+1)*len(names)]
		for at, run := range runs[round*len(names) : (round+1)*len(names)] {
			if run.Round != round || run.System != string(order[at]) {
				t.Errorf("in round %d %s ran, and it is told as %+v", round, order, run)
			}
		}
		orders[string(order)] = true
		if slices.Sort(order); string(order) != strings.Join(names, "") {
			t.Errorf("round %d ran %s", round, order)
		}
	}
	if len(orders) <= len(names) { // as many as a rotation has
		t.Errorf("rounds ran in the orders %v alone", orders)
	}
}

// TestAddressesStayOffCommandLines looks for a password where everybody can read it.
func TestAddressesStayOffCommandLines(t *testing.T) {
	t.Parallel()
	b := &bed{t: t, addresses: map[string]string{"DATABASE_URL": "postgres://u:secret@h/d", "RABBITMQ_URL": "amqp://u:secret@h"}}
	for command, variable := range map[string]string{
		"peer river drain --keys 1 --database-url $DATABASE_URL --broker-url $RABBITMQ_URL --queue-type quorum": "PEER_BROKER_URL=",
		"outbox relay --database-url $DATABASE_URL --broker-url $RABBITMQ_URL":                                  "OUTBOX_BROKER_URL=",
		"outbox migrate --database-url $DATABASE_URL":                                                           "OUTBOX_DATABASE_URL=",
	} {
		cmd := b.command(context.Background(), strings.Fields(command))
		line := strings.Join(cmd.Args, " ")
		if strings.Contains(line, "secret") || strings.Contains(line, "-url") || strings.HasPrefix(command, "peer") && !strings.HasSuffix(line, "river drain --keys 1 --queue-type quorum") {
			t.Errorf("%s is run as %s", command, line)
		}
		if !slices.ContainsFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, variable) && strings.Contains(v, "secret") }) {
			t.Errorf("%s does not get %s", command, variable)
		}
	}
}
