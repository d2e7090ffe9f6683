package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"testing"
)

// emitted returns what is pending in a desk's outbox.
func (d *desk) emitted() []map[string]any {
	d.t.Helper()
	got := d.call("messages", "list", "--json", "--limit", "0")
	got.want(d.t, 0)
	return lines(d.t, got.stdout)
}

func TestEmitTakesLines(t *testing.T) {
	eachDatabase(t, func(t *testing.T, d *desk) {
		const id = "0190a5a0-0000-7000-8000-000000000001"
		input := `{"id":"` + id + `","topic":"user.created","key":"k","tenant":"t","type":"User","version":"2","headers":{"a":"b"},"payload":{"n": 1}}

{"topic":"report.ready","content_type":"application/pdf","payload_base64":"` + base64.StdEncoding.EncodeToString([]byte{0, 0xff}) + `"}
{"topic":"note","content_type":"text/plain","payload":"hello"}
{"topic":"split","routes":["a","b"],"payload":null}
{"topic":"later","deliver_at":"2090-01-31T08:00:00Z","expires_at":"2091-01-31T08:00:00Z","payload":[1]}`
		got := call(t, d.env, input, "emit", "--lines")
		got.want(t, 0)
		ids := strings.Fields(got.stdout)
		if len(ids) != 5 || ids[0] != id {
			t.Fatalf("printed %q, want the id of each line", ids)
		}
		for i, want := range []string{
			`"key":"k"|"tenant":"t"|"type":"User"|"version":"2"|"headers":{"a":"b"}|"payload":{"n":1}`,
			`"content_type":"application/pdf"|"payload":"AP8="`,
			`"content_type":"text/plain"|"payload":"hello"`,
			`"route":"a"|"payload":null`,
			`"state":"scheduled"|"deliver_at":"2090-01-31T08:00:00Z"|"expires_at":"2091-01-31T08:00:00Z"`,
		} {
			d.call("messages", "show", "--json", ids[i]).want(t, 0, strings.Split(want, "|")...)
		}
		if n := len(d.emitted()); n != 5 {
			t.Errorf("%d messages are pending, want 5: one of each line, and two of that with two routes", n)
		}
	})
}

// TestEmitStopsAtALineAtFault: what stands before it is there, nothing behind it is, and
// nothing is there twice when the rest is emitted.
func TestEmitStopsAtALineAtFault(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	var input []string
	for i := range 1300 {
		input = append(input, fmt.Sprintf(`{"topic":"a.%d","payload":%d}`, i, i))
	}
	good := input[1211]
	input[1211] = `{"topic":"a..b","key":"a\u0001","payload":1}`
	got := call(t, d.env, strings.Join(input, "\n"), "emit", "--lines")
	got.want(t, exitFailure, "line 1212: topic \"a..b\" has an empty word", `; key "a\x01" has the control character`,
		"the lines up to 1211 are emitted", "--skip 1211")
	if n := strings.Count(got.stdout, "\n"); n != 1211 || len(d.emitted()) != n {
		t.Fatalf("%d ids are printed and %d messages are there, want 1211", n, len(d.emitted()))
	}
	input[1211] = good
	call(t, d.env, strings.Join(input, "\n"), "emit", "--lines", "--skip", "1211").want(t, 0)
	for i, m := range d.emitted() {
		if m["topic"] != fmt.Sprintf("a.%d", i) {
			t.Fatalf("message %d is %v", i, m)
		}
	}
	if n := len(d.emitted()); n != 1300 {
		t.Errorf("%d messages are there, want 1300", n)
	}
}

func TestLinesAtFault(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	for line, want := range map[string]string{
		`{"topic":"a"}`: `has neither "payload" nor "payload_base64"`,
		`{"topic":"a","payload":1,"payload_base64":"AA=="}`:            `has both`,
		`{"topic":"a","payload":1,"data":2}`:                           `unknown field "data"`,
		`{"topic":"a","payload":1} {}`:                                 `has something behind the object`,
		`{"topic":"a","payload":`:                                      `is not as a line must be`,
		`{"topic":5,"payload":1}`:                                      `is not as a line must be: "topic" has a JSON number where a string must be`,
		`{"topic":"a","payload":1,"headers":{"a":true}}`:               `"headers" has a JSON bool where a string must be`,
		`{"topic":"a","payload":1,"routes":"b"}`:                       `"routes" has a JSON string where an array must be`,
		`["a"]`:                                                        `it has a JSON array where an object must be`,
		`{"topic":"a..b","key":"\u0001","content_type":"x"}`:           `has neither "payload" nor "payload_base64"; topic "a..b" has an empty word: dots separate words and stand neither first, last nor twice; key`,
		`{"topic":"a","payload":"` + strings.Repeat("x", 1<<20) + `"}`: "send a reference\n",
		`{"topic":"a","payload":1,"content_type":"text/plain"}`:        `has a payload that is no string, with the content type "text/plain"`,
		`{"topic":"a","payload":1,"headers":{"a b":"c"}}`:              `headers "a b" has`,
		`{"topic":"a","payload":1,"id":"7"}`:                           `id "7" is not a UUID`,
		`{"topic":"a","payload":1,"routes":["a/b"]}`:                   `route "a/b" has the character`,
		`{"topic":"a","payload":1,"expires_at":"2030-01-01T00:00:00Z","deliver_at":"2031-01-01T00:00:00Z"}`: `expires_at "2030-01-01T00:00:00Z" is not later than deliver_at`,
		strings.Repeat("x", maxLine+1): "is longer than",
	} {
		got := call(t, d.env, "\n"+line+"\n", "emit", "--lines")
		got.want(t, exitFailure, "line 2: ", want, "the lines up to 0 are emitted")
	}
	for args, want := range map[string]string{
		"emit --lines --topic a --in 1h": "2 problems",
		"emit --lines --skip -1":         "--skip",
		"emit --topic a --skip 1":        "--skip: is of use with --lines alone",
		"emit --lines --file none":       "no such file",
	} {
		if got := call(t, d.env, "1", strings.Fields(args)...); got.code == 0 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %d, %s", args, got.code, got.stderr)
		}
	}
	if n := len(d.emitted()); n != 0 {
		t.Errorf("%d messages were emitted", n)
	}
}

func TestLinesMayBeginWithAMark(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	call(t, d.env, "\ufeff"+`{"topic":"a","payload":1}`, "emit", "--lines").want(t, 0)
	call(t, d.env, `{"topic":"a","payload":1}`+"\n\ufeff"+`{"topic":"b","payload":1}`, "emit", "--lines").want(t, exitFailure, "line 2")
}

// TestEmitDoesNotWaitForTheEndOfItsInput: a program may write to it for ever.
func TestEmitDoesNotWaitForTheEndOfItsInput(t *testing.T) {
	t.Parallel()
	d := sqliteDesk(t)
	in, out := io.Pipe()
	a := &app{stdin: in, stdout: io.Discard, stderr: io.Discard, env: func(name string) (string, bool) { v, ok := d.env[name]; return v, ok }}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan int, 1)
	go func() { ended <- a.run(ctx, []string{"emit", "--lines"}) }()
	for i := range 3 {
		if _, err := fmt.Fprintf(out, `{"topic":"a.%d","payload":1}`+"\n"+`{"topic":`, i); err != nil {
			t.Fatal(err)
		}
		await(t, "the line to be emitted", func() bool { return len(d.emitted()) == 2*i+1 })
		if _, err := fmt.Fprint(out, `"b","payload":1}`+"\n"); err != nil {
			t.Fatal(err)
		}
		await(t, "the line to be emitted", func() bool { return len(d.emitted()) == 2*i+2 })
	}
	cancel(fmt.Errorf("enough")) // in the middle of a read
	if code := <-ended; code != exitFailure {
		t.Errorf("exit code %d, want %d", code, exitFailure)
	}
	_ = out.Close()
}
