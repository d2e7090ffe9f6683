package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
)

const linesHelp = `With --lines it takes lines of JSON from --file or standard input instead, each of them a message:

  {"topic": "user.created", "key": "123", "payload": {"id": 123}}

A line has "topic" and either "payload", any JSON, or "payload_base64", any bytes; beside them what the
flags are named: "key", "tenant", "type", "version", "content_type", "headers" and "id". With a content
type that is no JSON a payload is a string, the text itself.`

const (
	maxBatch = 500
	// readAhead is how many bytes are read at once. It bounds what is in memory: a batch
	// ends with the lines that have come, and with the first that is longer.
	readAhead = 256 << 10
	// maxLine leaves room for the largest payload as base64 and for its headers.
	maxLine = 4 << 20
)

// record is a line.
type record struct {
	ID            string            `json:"id"`
	Topic         string            `json:"topic"`
	Key           string            `json:"key"`
	Tenant        string            `json:"tenant"`
	Type          string            `json:"type"`
	Version       string            `json:"version"`
	ContentType   string            `json:"content_type"`
	Headers       map[string]string `json:"headers"`
	Payload       json.RawMessage   `json:"payload"`
	PayloadBase64 *[]byte           `json:"payload_base64"`

	Routes    []string  `json:"routes"`
	DeliverAt time.Time `json:"deliver_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// entry is a line that is without fault: its messages, one for each route.
type entry struct {
	number   int // of the line, from 1
	messages []outbox.Message
}

func messagesOf(entries []entry) (all []outbox.Message) {
	for _, e := range entries {
		all = append(all, e.messages...)
	}
	return all
}

// lineReader takes lines apart.
type lineReader struct {
	r      *bufio.Reader
	number int // of the last line
	skip   int
	timed  bool // lines may say when, and by which routes
}

// batch returns the lines that have come, at least one and at most maxBatch of
// them, and what stands in the way of more: io.EOF, or the fault of a line.
func (r *lineReader) batch() (entries []entry, err error) {
	for len(entries) < maxBatch {
		if len(entries) > 0 && !r.more() {
			return entries, nil
		}
		line, err := r.line()
		if r.number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff")) // some editors' mark of UTF-8
		}
		if len(bytes.TrimSpace(line)) > 0 && r.number > r.skip {
			messages, fault := r.parse(line)
			if fault != nil {
				return entries, fmt.Errorf("line %d: %w", r.number, fault)
			}
			entries = append(entries, entry{r.number, messages})
		}
		if err != nil {
			return entries, err
		}
	}
	return entries, nil
}

// more reports whether a whole line has come already.
func (r *lineReader) more() bool {
	waiting, err := r.r.Peek(r.r.Buffered())
	return err == nil && bytes.IndexByte(waiting, '\n') >= 0
}

// line returns the next line, the last one perhaps with an error.
func (r *lineReader) line() (line []byte, err error) {
	r.number++
	for {
		part, err := r.r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, fmt.Errorf("line %d: is longer than %d bytes", r.number, maxLine)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

func (r *lineReader) parse(line []byte) ([]outbox.Message, error) {
	var rec record
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&rec); err != nil {
		return nil, fmt.Errorf("is not as a line must be: %s", jsonFault(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has something behind the object: write one object a line")
	}
	var faults []string
	if !r.timed && (rec.Routes != nil || !rec.DeliverAt.IsZero() || !rec.ExpiresAt.IsZero()) {
		faults = append(faults, "has routes, deliver_at or expires_at: what is sent directly takes no route, and goes at once")
	}
	event, err := rec.event()
	if err != nil {
		faults = append(faults, err.Error())
		event.Payload = json.RawMessage("null") // for the sake of the other faults
		event.ContentType = ""
	}
	messages, err := prepare(rec.Routes, event)
	if err != nil {
		faults = append(faults, lineFaults(err)...)
	}
	if len(faults) > 0 {
		return nil, errors.New(strings.Join(faults, "; "))
	}
	return messages, nil
}

// jsonFault says what is wrong with a line without the words of Go.
func jsonFault(err error) string {
	var mistyped *json.UnmarshalTypeError
	if !errors.As(err, &mistyped) {
		return strings.TrimPrefix(err.Error(), "json: ")
	}
	wanted := map[reflect.Kind]string{reflect.String: "a string", reflect.Map: "an object", reflect.Struct: "an object", reflect.Slice: "an array"}
	place := "it"
	if mistyped.Field != "" {
		place = strconv.Quote(mistyped.Field)
	}
	return fmt.Sprintf("%s has a JSON %s where %s must be", place, mistyped.Value, wanted[mistyped.Type.Kind()])
}

// event returns what the line says.
func (rec *record) event() (outbox.Event, error) {
	event := outbox.Event{
		ID: rec.ID, Topic: rec.Topic, Key: rec.Key, Tenant: rec.Tenant, Type: rec.Type, Version: rec.Version,
		ContentType: rec.ContentType, Headers: rec.Headers, DeliverAt: rec.DeliverAt, ExpiresAt: rec.ExpiresAt,
	}
	switch {
	case rec.Payload == nil && rec.PayloadBase64 == nil:
		return event, errors.New(`has neither "payload" nor "payload_base64"`)
	case rec.Payload != nil && rec.PayloadBase64 != nil:
		return event, errors.New(`has both "payload" and "payload_base64"`)
	case rec.PayloadBase64 != nil:
		event.Payload = *rec.PayloadBase64
	case rec.ContentType == "" || isJSON(rec.ContentType):
		event.Payload = rec.Payload
	default:
		var text string
		if json.Unmarshal(rec.Payload, &text) != nil {
			return event, fmt.Errorf(`has a payload that is no string, with the content type %q: write the text, or "payload_base64"`, rec.ContentType)
		}
		event.Payload = []byte(text)
	}
	return event, nil
}

// lineFaults names the faults in err as a line names the fields.
func lineFaults(err error) (faults []string) {
	name := strings.NewReplacer("ContentType", "content_type", "DeliverAt", "deliver_at", "ExpiresAt", "expires_at", "Headers", "headers")
	for _, field := range fieldErrors(err) {
		text := strings.ToLower(name.Replace(field.Field))
		if field.Value != "" {
			text += fmt.Sprintf(" %q", field.Value)
		}
		faults = append(faults, text+" "+name.Replace(reasonOf(field)))
	}
	if len(faults) == 0 {
		return []string{err.Error()}
	}
	return faults
}

// feed brings lines where they go.
type feed struct {
	done  string // what is said of lines that are there: emitted
	timed bool   // see lineReader

	// put brings the first done of the lines there, all unless there is an error.
	put func(ctx context.Context, entries []entry) (done int, err error)
}

// portion is what was read at once.
type portion struct {
	entries []entry
	err     error
}

// feed reads lines and puts them where they go, until there are no more or ctx ends,
// and prints the ids of those that are there.
func (a *app) feed(ctx context.Context, f *messageFlags, to *feed) (err error) {
	input, err := f.open(a.stdin)
	if err != nil {
		return fmt.Errorf("open --file: %w", err)
	}
	defer func() { err = errors.Join(err, input.Close()) }()
	lines := &lineReader{r: bufio.NewReaderSize(input, readAhead), skip: f.skip, timed: to.timed}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	// Nobody can break off a read of standard input: it ends with the process.
	portions := make(chan portion)
	go func() {
		for reading.Err() == nil {
			var p portion
			p.entries, p.err = lines.batch()
			select {
			case portions <- p:
			case <-reading.Done():
			}
			if p.err != nil {
				return
			}
		}
	}()
	last := f.skip // the last line that is there, or was passed over
	for {
		select {
		case <-ctx.Done():
			return to.stopped(last, context.Cause(ctx))
		case p := <-portions:
			// What was read is finished even if a signal comes.
			last, err = a.bring(context.WithoutCancel(ctx), p.entries, to, last)
			switch {
			case err != nil:
				return to.stopped(last, err)
			case errors.Is(p.err, io.EOF):
				return nil
			case p.err != nil:
				return to.stopped(last, p.err)
			}
		}
	}
}

// bring puts lines where they go and prints their ids. It returns the number of the
// last one that is there, which is last if none of them is.
func (a *app) bring(ctx context.Context, entries []entry, to *feed, last int) (int, error) {
	if len(entries) == 0 {
		return last, nil
	}
	done, err := to.put(ctx, entries)
	for _, e := range entries[:done] {
		last = e.number
		fmt.Fprintln(a.stdout, e.messages[0].ID)
	}
	if err != nil {
		err = fmt.Errorf("lines %d to %d: %w", entries[done].number, entries[len(entries)-1].number, err)
	}
	return last, err
}

// stopped says how far it came, and how to go on.
func (f *feed) stopped(last int, err error) error {
	return fmt.Errorf("%w\nthe lines up to %d are %s: go on behind them with --skip %d", err, last, f.done, last)
}
