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
	data, file string
}

func (a *app) emit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "emit",
		Short: "Emit one message, in a transaction of its own, and print its id",
		Long: `Emits one message, in a transaction of its own, and prints its id. The payload is what --data says, or
the content of --file, or else standard input. It is JSON unless --content-type says otherwise, and is
stored byte for byte.`,
		Example: `  outbox emit --topic user.created --key 123 --data '{"id": 123}'
  outbox emit --topic report.ready --content-type application/pdf --file report.pdf`,
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
	flags.StringVar(&f.data, "data", "", "payload")
	flags.StringVar(&f.file, "file", "", "`file` with the payload")
	keys := a.keyFlags(flags, true, "database", "log").withFile()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckDatabase(l)
		wire.CheckFile(l)
		f.readPayload(l, flags.Changed("data"), a.stdin)
		f.check(l)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runEmit(cmd.Context(), l, f.event)
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
	if f.event.ID == "" {
		f.event.ID = uuid.Must(uuid.NewV7()).String()
	}
	_, err := outbox.New[any](nil).Prepare(context.Background(), f.event)
	addFieldErrors(l, err)
}

// addFieldErrors reports the faults in err by the names of the flags.
func addFieldErrors(l *config.Loaded, err error) {
	var field *outbox.FieldError
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range several.Unwrap() {
			addFieldErrors(l, one)
		}
	} else if errors.As(err, &field) {
		l.Add(config.Problem{Key: flagOf(field.Field), Value: field.Value, Reason: field.Reason})
	}
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

func (a *app) runEmit(ctx context.Context, l *config.Loaded, e outbox.Event) error {
	if err := emitOne(ctx, l, e, a.stderr); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.stdout, e.ID)
	return err
}

func emitOne(ctx context.Context, l *config.Loaded, e outbox.Event, logs io.Writer) (err error) {
	s, err := wire.OpenStore(ctx, l.Database, l.Log.Logger(logs))
	if err != nil {
		return err
	}
	defer closeStore(s, &err)
	return wire.DatabaseError("emit", l.Database, s.Emit(ctx, e))
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == outbox.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}
