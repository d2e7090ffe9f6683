package bench

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/program"
	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
)

// A relay in a process of its own is configured by what the benchmark was given, and
// not by variables that are there already.
func TestEnvironmentOfARelay(t *testing.T) {
	t.Parallel()
	c := &children{
		Process: Process{
			Environ: []string{"HOME=/home/me", "OUTBOX_RELAY_KEEP=30d", "OUTBOX_CONFIG=/etc/outbox.yaml"},
			Keys:    map[string]string{"relay.window": "7", "database.url": "that of the command line", "log.level": ""},
		},
		drain: &drain{
			traffic:  &traffic{broker: config.Broker{URL: "amqp://h/", Exchange: "e", Stream: "s", SubjectPrefix: "p."}},
			database: &scratch.Database{Config: config.Database{URL: "postgres://me:secret@h/d", Schema: "x"}},
		},
	}
	got := c.environment()
	slices.Sort(got)
	want := "HOME=/home/me OUTBOX_BROKER_EXCHANGE=e OUTBOX_BROKER_STREAM=s OUTBOX_BROKER_SUBJECT_PREFIX=p. OUTBOX_BROKER_URL=amqp://h/ " +
		"OUTBOX_DATABASE_SCHEMA=x OUTBOX_DATABASE_URL=postgres://me:secret@h/d OUTBOX_RELAY_WINDOW=7"
	if text := strings.Join(got, " "); text != want {
		t.Errorf("got %s", text)
	}
}

// A second signal ends this program at once: the relays that it has started, too, and
// lets no other start.
func TestRelaysEndWithTheProgram(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "relay.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n"), 0o700); err != nil { //nolint:gosec // to run it
		t.Fatal(err)
	}
	var all program.Children
	failed := make(chan error, 1)
	c := &children{
		Process: Process{Executable: path, Children: &all},
		drain:   &drain{traffic: &traffic{Options: &Options{Relays: 1}}, database: &scratch.Database{}, fail: func(err error) { failed <- err }},
	}
	if err := c.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	all.Kill()
	select {
	case err := <-failed:
		t.Log(err)
	case <-time.After(10 * time.Second):
		t.Error("the relay runs on")
	}
	_ = c.stop() // killed
	if err := c.start(t.Context()); err == nil {
		t.Error("a relay has started after all were ended")
	}
}
