package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/cmd/outbox/internal/config"
	"github.com/outbox-go/outbox/cmd/outbox/internal/wire"
)

// emitFlags describe the message.
type emitFlags struct {
	event      outbox.Event
	headers    []string
	routes     []string
	data, file string

	deliverAt, deliverIn, expiresAt, expiresIn string
}

func (a *app) emit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "emit",
		Short: "Emit one message, in a transaction of its own, and print its id",
		Long: `Emits one message, in a transaction of its own, and prints its id. The payload is what --data says, or
the content of --file, or else standard input. It is JSON unless --content-type says otherwise, and is
stored byte for byte.

With --deliver-at or --in it is sent when that time has come, with --expires-at or --expires-in no longer
once it has passed. --in and --expires-in count from now by this machine's clock, relays go by the
database's.`,
		Example: `  outbox emit --topic user.created --key 123 --data '{"id": 123}'
  outbox emit --topic report.ready --content-type application/pdf --file report.pdf
  outbox emit --topic reminder.due --in 2h --expires-in 1d --data '{"id": 123}'`,
		Args: cobra.NoArgs,
	}
	var f emitFlags
	flags := cmd.Flags()
	flags.StringVar(&f.event.Topic, "topic", "", "where the message goes: words separated by dots (required)")
	flags.StringVar(&f.event.Key, "key", "", "messages of one key are delivered in their order")
	flags.StringVar(&f.event.Tenant, "tenant", "", "customer that the message is of")
	flags.StringVar(&f.event.Type, "type", "", "name of the payload's schema")
	flags.StringArrayVar(&f.headers, "header", nil, "header as `name=value`; may be repeated")
	flags.StringVar(&f.event.ContentType, "content-type", outbox.ContentTypeJSON, "media `type` of the payload")
	flags.StringVar(&f.event.ID, "id", "", "`UUID` of the message; else one is made")
	flags.StringArrayVar(&f.routes, "route", nil, "`name` of the route that it takes; may be repeated: each gets a copy")
	flags.StringVar(&f.deliverAt, "deliver-at", "", "`time` before which it is not sent, such as 2030-01-31T08:00:00Z")
	flags.StringVar(&f.deliverIn, "in", "", "`age` that it is to have when it is sent, such as 90m or 1d")
	flags.StringVar(&f.expiresAt, "expires-at", "", "`time` from which on it is not sent any more")
	flags.StringVar(&f.expiresIn, "expires-in", "", "`age` from which on it is not sent any more")
	flags.StringVar(&f.data, "data", "", "payload")
	flags.StringVar(&f.file, "file", "", "`file` with the payload")
	keys := a.keyFlags(flags, true, "database", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		wire.CheckOneOutbox(l)
		f.readPayload(l, flags.Changed("data"), a.stdin)
		f.check(l)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runEmit(cmd.Context(), l, &f)
	}
	return cmd
}

// readPayload takes the payload from where the flags say it is.
func (f *emitFlags) readPayload(l *config.Loaded, given bool, stdin io.Reader) {
	var payload []byte
	var err error
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

// check completes the event and reports what is wrong with it.
func (f *emitFlags) check(l *config.Loaded) {
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
	now := time.Now()
	f.event.DeliverAt = instant(l, now, "--deliver-at", f.deliverAt, "--in", f.deliverIn)
	f.event.ExpiresAt = instant(l, now, "--expires-at", f.expiresAt, "--expires-in", f.expiresIn)
	if f.event.ID == "" {
		f.event.ID = uuid.Must(uuid.NewV7()).String()
	}
	routes := outbox.WithRoutes(func(*outbox.Message) []string { return f.routes })
	_, err := outbox.New[any](nil, routes).Prepare(context.Background(), f.event)
	f.addFieldErrors(l, err)
}

// instant returns the time that one of two flags says, the first by itself and the
// second from now on, and reports what is wrong with them.
func instant(l *config.Loaded, now time.Time, atFlag, at, inFlag, in string) time.Time {
	switch {
	case at != "" && in != "":
		l.Add(config.Problem{Key: inFlag, Value: in, Reason: "is given beside " + atFlag + ": leave out one of them"})
	case at != "":
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			l.Add(config.Problem{Key: atFlag, Value: at, Reason: "is not a time such as 2030-01-31T08:00:00Z or 2030-01-31T09:00:00+01:00"})
		}
		return t
	case in != "":
		age, err := config.ParseAge(in)
		if err != nil {
			l.Add(config.Problem{Key: inFlag, Value: in, Reason: err.Error()})
			return time.Time{}
		}
		return now.Add(age)
	}
	return time.Time{}
}

// addFieldErrors reports the faults in err by the names of the flags.
func (f *emitFlags) addFieldErrors(l *config.Loaded, err error) {
	var field *outbox.FieldError
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range several.Unwrap() {
			f.addFieldErrors(l, one)
		}
	} else if errors.As(err, &field) {
		reason := strings.ReplaceAll(field.Reason, "DeliverAt", f.flagOf("DeliverAt"))
		l.Add(config.Problem{Key: f.flagOf(field.Field), Value: field.Value, Reason: reason})
	}
}

// flagOf returns the flag that sets a field of an event.
func (f *emitFlags) flagOf(field string) string {
	switch {
	case field == "ContentType":
		return "--content-type"
	case field == "DeliverAt" && f.deliverIn != "":
		return "--in"
	case field == "DeliverAt":
		return "--deliver-at"
	case field == "ExpiresAt" && f.expiresIn != "":
		return "--expires-in"
	case field == "ExpiresAt":
		return "--expires-at"
	case field == "Payload":
		return "payload"
	case strings.HasPrefix(field, "Headers"):
		return "--header" + strings.TrimPrefix(field, "Headers")
	}
	return "--" + strings.ToLower(field)
}

func (a *app) runEmit(ctx context.Context, l *config.Loaded, f *emitFlags) error {
	if err := emitOne(ctx, l, f, a.stderr); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.stdout, f.event.ID)
	return err
}

func emitOne(ctx context.Context, l *config.Loaded, f *emitFlags, logs io.Writer) (err error) {
	s, err := wire.OpenStore(ctx, l.Database, l.Log.Logger(logs))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	return wire.DatabaseError("emit", l.Database, s.Emit(ctx, f.routes, f.event))
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == outbox.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}
