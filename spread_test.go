package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/outbox-go/outbox"
)

// line is a publisher that notes what it gets.
type line struct {
	got             []string
	flushes, closes int
	fault           error
}

func (l *line) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	l.got = append(l.got, m.Tenant+"/"+m.Key+"/"+m.ID)
	done(l.fault)
}

func (l *line) Flush() error { l.flushes++; return l.fault }
func (l *line) Close() error { l.closes++; return l.fault }

func TestSpreadKeepsAKeyTogether(t *testing.T) {
	t.Parallel()
	lines := []*line{{}, {}, {}}
	p := outbox.Spread(lines[0], lines[1], lines[2])
	const keys, each = 30, 20
	for i := range keys * each {
		m := &outbox.Message{ID: fmt.Sprintf("%03d", i/keys), Key: fmt.Sprint(i % keys / 2), Tenant: fmt.Sprint(i % 2)}
		p.Publish(context.Background(), m, func(error) {})
	}
	at, last := map[string]int{}, map[string]string{}
	for i, l := range lines {
		if len(l.got) == 0 {
			t.Errorf("publisher %d got nothing", i)
		}
		for _, text := range l.got {
			key, id := text[:strings.LastIndex(text, "/")], text[strings.LastIndex(text, "/"):]
			if was, ok := at[key]; ok && was != i {
				t.Fatalf("%s went to publishers %d and %d", key, was, i)
			}
			if id <= last[key] {
				t.Fatalf("%s: %s came behind %s", key, id, last[key])
			}
			at[key], last[key] = i, id
		}
	}
	if len(at) != keys {
		t.Errorf("got %d keys, want %d", len(at), keys)
	}
}

// Without keys all get some, and one that is tried again goes where it was: that
// publisher may suspect it.
func TestSpreadSharesOutWithoutKeys(t *testing.T) {
	t.Parallel()
	lines := []*line{{}, {}}
	p := outbox.Spread(lines[0], lines[1])
	const messages = 1000
	for range 3 {
		for i := range messages {
			p.Publish(context.Background(), &outbox.Message{ID: fmt.Sprint(i)}, func(error) {})
		}
	}
	for i, l := range lines {
		seen := map[string]int{}
		for _, text := range l.got {
			seen[text]++
		}
		for text, n := range seen {
			if n != 3 {
				t.Fatalf("publisher %d got message %s %d times of 3", i, text, n)
			}
		}
		if len(seen) < messages/3 {
			t.Errorf("publisher %d got %d of %d messages", i, len(seen), messages)
		}
	}
}

func TestSpreadFlushesAndClosesAll(t *testing.T) {
	t.Parallel()
	fault := errors.New("no")
	lines := []*line{{fault: fault}, {}}
	p := outbox.Spread(lines[0], outbox.PublishFunc(func(context.Context, *outbox.Message) error { return nil }), lines[1])
	if err := p.(outbox.Flusher).Flush(); !errors.Is(err, fault) {
		t.Errorf("Flush returned %v, want %v", err, fault)
	}
	if err := p.Close(); !errors.Is(err, fault) {
		t.Errorf("Close returned %v, want %v", err, fault)
	}
	for i, l := range lines {
		if l.flushes != 1 || l.closes != 1 {
			t.Errorf("publisher %d was flushed %d and closed %d times, want once", i, l.flushes, l.closes)
		}
	}
	if one := outbox.Spread(lines[0]); one != outbox.Publisher(lines[0]) {
		t.Error("one publisher alone is not itself")
	}
}
