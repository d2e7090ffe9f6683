package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/admin"
	"github.com/outbox-go/outbox/store"
)

// printer writes messages as a table, or each as a line of JSON.
type printer struct {
	out   io.Writer
	table *tabwriter.Writer // nil for JSON
	state store.State
	rows  int

	pauses []store.Pause
	held   map[heldKey]bool // keys of which a message was listed that does not go now
}

// heldKey names an order on a route.
type heldKey struct {
	route string
	store.Key
}

// tableFlush is how many rows are laid out together: so a long list comes bit by
// bit.
const tableFlush = 500

func newPrinter(out io.Writer, state store.State, asJSON bool) *printer {
	p := &printer{out: out, state: state, held: map[heldKey]bool{}}
	if !asJSON {
		p.table = newTable(out)
	}
	return p
}

func newTable(out io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(out, 0, 0, 2, ' ', 0) }

func (p *printer) print(row *store.Stored) error {
	if p.table == nil {
		return encodeLine(p.out, admin.NewRecord(row))
	}
	if p.rows == 0 {
		fmt.Fprintln(p.table, strings.Join(p.header(), "\t"))
	}
	cells := p.cells(row)
	for i := range cells {
		cells[i] = cell(cells[i])
	}
	fmt.Fprintln(p.table, strings.Join(cells, "\t"))
	if p.rows++; p.rows%tableFlush == 0 {
		return p.table.Flush()
	}
	return nil
}

func (p *printer) header() []string {
	head := []string{"ID", "TOPIC", "KEY", "TENANT", "ROUTE"}
	switch p.state {
	case store.Dead:
		return append(head, "SINCE", "REASON", "ATTEMPTS", "ERROR")
	case store.Sent:
		return append(head, "SENT")
	case store.Scheduled:
		return append(head, "DUE")
	case store.Pending:
	}
	return append(head, "EMITTED", "ATTEMPTS", "NEXT", "ERROR")
}

func (p *printer) cells(row *store.Stored) []string {
	cells := []string{row.ID, row.Topic, row.Key, row.Tenant, row.Route}
	switch p.state {
	case store.Dead:
		reason := string(row.Reason)
		if row.Parked && row.Reason != store.Parked {
			reason += ", parks its key"
		}
		return append(cells, moment(row.At), reason, strconv.Itoa(row.Attempts), row.LastError)
	case store.Sent:
		return append(cells, moment(row.At))
	case store.Scheduled:
		return append(cells, moment(row.DeliverAt))
	case store.Pending:
	}
	return append(cells, moment(row.CreatedAt), strconv.Itoa(row.Attempts), p.next(row), row.LastError)
}

// next says what a pending message waits for, and nothing where a relay may have it,
// or there may be none.
func (p *printer) next(row *store.Stored) string {
	key := heldKey{row.Route, store.Key{Tenant: row.Tenant, Key: row.Key}}
	text := ""
	switch {
	case row.RetryIn == store.Never:
		text = "blocked"
	case slices.ContainsFunc(p.pauses, func(pause store.Pause) bool { return pauses(pause, row) }):
		text = "paused"
	case row.RetryIn > 0:
		text = "in " + roughly(row.RetryIn)
	case row.Key != "" && p.held[key]:
		text = "behind"
	}
	if text != "" && row.Key != "" {
		p.held[key] = true
	}
	return text
}

// pauses reports whether a pause holds a message back.
func pauses(p store.Pause, row *store.Stored) bool {
	return (p.Topic == "" || outbox.MatchTopic(p.Topic, row.Topic)) &&
		(p.Key == "" || p.Key == row.Key && p.Tenant == row.Tenant)
}

func (p *printer) flush() error {
	if p.table == nil {
		return nil
	}
	return p.table.Flush()
}

// count returns "1 message" or "2 messages".
func count(n int, one, several string) string {
	if n == 1 {
		several = one
	}
	return fmt.Sprintf("%d %s", n, several)
}

const maxCell = 80

// cell returns text as it may be in a table: in one line, short, and without what a
// terminal would obey.
func cell(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsGraphic(r):
			return unicode.ReplacementChar
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > maxCell {
		text = string(runes[:maxCell-3]) + "..."
	}
	if text == "" {
		return "-"
	}
	return text
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// roughly returns a duration without what nobody reads.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Millisecond).String()
}

// showOne writes all of a message.
func showOne(w io.Writer, row *store.Stored, asJSON bool) error {
	r := admin.NewRecord(row).WithPayload(row.Payload)
	if asJSON {
		return encodeLine(w, r)
	}
	t := newTable(w)
	line := func(name string, value any) {
		if text := fmt.Sprint(value); text != "" && text != "0" {
			fmt.Fprintf(t, "%s:\t%s\n", name, printable(text))
		}
	}
	at := func(name string, at time.Time) {
		if !at.IsZero() {
			line(name, moment(at))
		}
	}
	line("id", r.ID)
	line("state", r.State)
	line("route", r.Route)
	line("topic", r.Topic)
	line("key", r.Key)
	line("tenant", r.Tenant)
	line("type", strings.TrimSpace(r.Type+" "+r.Version))
	line("content type", r.ContentType)
	for _, name := range sortedKeys(r.Headers) {
		line("header "+name, r.Headers[name])
	}
	at("emitted", row.CreatedAt)
	at("deliver at", row.DeliverAt)
	at("expires at", row.ExpiresAt)
	line("position", r.Position)
	at(map[store.State]string{store.Dead: "dead since", store.Sent: "sent"}[r.State], row.At)
	line("reason", r.Reason)
	if r.Parked {
		line("parked", "its key waits for it")
	}
	line("attempts", r.Attempts)
	switch {
	case r.Blocked:
		line("next attempt", "when it is retried: blocked")
	case row.RetryIn > 0:
		line("next attempt", "in "+roughly(row.RetryIn))
	}
	line("error", r.LastError)
	if err := t.Flush(); err != nil {
		return err
	}
	payload := printable(string(row.Payload))
	if r.PayloadEncoding == admin.EncodingBase64 {
		payload = fmt.Sprintf("(%d bytes that are no text; see --json)", len(row.Payload))
	}
	_, err := fmt.Fprintf(w, "payload:\n%s\n\n", payload)
	return err
}

// printable keeps a terminal from obeying what is in a message.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsGraphic(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// encodeLine writes v as a line of JSON.
func encodeLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
