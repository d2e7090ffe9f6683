package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"os"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
)

// messageFlags describe one message, or say that lines do which.
type messageFlags struct {
	flags      *pflag.FlagSet
	event      outbox.Event
	headers    []string
	data, file string
	lines      bool
	skip       int
}

// messageFlags adds the flags that describe a message.
func (a *app) messageFlags(flags *pflag.FlagSet) *messageFlags {
	f := &messageFlags{flags: flags}
	flags.StringVar(&f.event.Topic, "topic", "", "where the message goes: words separated by dots (required)")
	flags.StringVar(&f.event.Key, "key", "", "messages of one key are delivered in their order")
	flags.StringVar(&f.event.Tenant, "tenant", "", "customer that the message is of")
	flags.StringVar(&f.event.Type, "type", "", "name of the payload's schema")
	flags.StringVar(&f.event.Version, "version", "", "version of the payload's schema")
	flags.StringArrayVar(&f.headers, "header", nil, "header as `name=value`; may be repeated")
	flags.StringVar(&f.event.ContentType, "content-type", outbox.ContentTypeJSON, "media `type` of the payload")
	flags.StringVar(&f.event.ID, "id", "", "`UUID` of the message; else one is made")
	flags.StringVar(&f.data, "data", "", "payload")
	flags.StringVar(&f.file, "file", "", "`file` with the payload, or with the lines")
	flags.BoolVar(&f.lines, "lines", false, "take lines of JSON, each of them a message")
	flags.IntVar(&f.skip, "skip", 0, "how many lines to pass over first, with --lines")
	return f
}

// ofOne are the flags that describe one message, and go with --lines not.
var ofOne = []string{
	"topic", "key", "tenant", "type", "version", "header", "content-type", "id", "data",
	"route", "deliver-at", "in", "expires-at", "expires-in",
}

// checkLines reports what is wrong with the flags when there are lines.
func (f *messageFlags) checkLines(l *config.Loaded) {
	for _, name := range ofOne {
		if f.flags.Changed(name) {
			l.Add(config.Problem{Key: "--" + name, Reason: "is given beside --lines, where each line says it: leave out one of them"})
		}
	}
	if f.skip < 0 {
		l.Add(config.Problem{Key: "--skip", Reason: "must not be negative"})
	}
}

// open returns where the lines come from.
func (f *messageFlags) open(stdin io.Reader) (io.ReadCloser, error) {
	if f.file == "" {
		return io.NopCloser(stdin), nil
	}
	return os.Open(f.file)
}

// checkOne completes the event and reports what is wrong with the flags when they
// describe one message, for each of the routes.
func (f *messageFlags) checkOne(l *config.Loaded, stdin io.Reader, routes []string, flagOf func(field string) string) {
	if f.flags.Changed("skip") {
		l.Add(config.Problem{Key: "--skip", Reason: "is of use with --lines alone"})
	}
	f.readPayload(l, stdin)
	for _, header := range f.headers {
		name, value, ok := strings.Cut(header, "=")
		if !ok || name == "" {
			l.Add(config.Problem{Key: "--header", Value: header, Reason: "must be name=value"})
			continue
		}
		if f.event.Headers == nil {
			f.event.Headers = map[string]string{}
		}
		f.event.Headers[name] = value
	}
	if f.event.ID == "" {
		f.event.ID = uuid.Must(uuid.NewV7()).String()
	}
	_, err := prepare(routes, f.event)
	addFieldErrors(l, err, flagOf)
}

// prepare validates an event and makes its messages, one for each of the routes.
func prepare(routes []string, event outbox.Event) ([]outbox.Message, error) {
	chosen := outbox.WithRoutes(func(*outbox.Message) []string { return routes })
	return outbox.New[any](nil, chosen).Prepare(context.Background(), event)
}

// readPayload takes the payload from where the flags say it is.
func (f *messageFlags) readPayload(l *config.Loaded, stdin io.Reader) {
	var payload []byte
	var err error
	given := f.flags.Changed("data")
	where := config.Problem{Key: "--data"}
	switch {
	case given && f.file != "":
		l.Add(config.Problem{Key: "--file", Value: f.file, Reason: "is given beside --data: leave out one of them"})
		return
	case given:
		payload = []byte(f.data)
	case f.file != "":
		where = config.Problem{Key: "--file", Value: f.file}
		payload, err = os.ReadFile(f.file)
	default:
		where.Key = "standard input"
		payload, err = io.ReadAll(stdin)
	}
	f.event.Payload = payload
	switch {
	case err != nil:
		where.Reason = "cannot be read: " + err.Error()
		l.Add(where)
	case isJSON(f.event.ContentType) && !json.Valid(payload):
		where.Reason = "is not valid JSON: mend it, or say by --content-type what it is"
		l.Add(where)
	}
}

// addFieldErrors reports the faults in err by the names of the flags.
func addFieldErrors(l *config.Loaded, err error, flagOf func(field string) string) {
	for _, field := range fieldErrors(err) {
		reason := strings.ReplaceAll(reasonOf(field), "DeliverAt", flagOf("DeliverAt"))
		l.Add(config.Problem{Key: flagOf(field.Field), Value: field.Value, Reason: reason})
	}
}

// fieldErrors returns the faults of an event that are joined in err.
func fieldErrors(err error) (all []*outbox.FieldError) {
	var field *outbox.FieldError
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range several.Unwrap() {
			all = append(all, fieldErrors(one)...)
		}
	} else if errors.As(err, &field) {
		all = append(all, field)
	}
	return all
}

// reasonOf returns what is wrong with a field, without what only a program in Go can
// do about it.
func reasonOf(field *outbox.FieldError) string {
	return strings.TrimSuffix(field.Reason, ", or raise WithMaxPayload")
}

// flagOf returns the flag that sets a field of an event.
func flagOf(field string) string {
	switch {
	case field == "ContentType":
		return "--content-type"
	case field == "Payload":
		return "payload"
	case strings.HasPrefix(field, "Headers"):
		return "--header" + strings.TrimPrefix(field, "Headers")
	}
	return "--" + strings.ToLower(field)
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == outbox.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}
