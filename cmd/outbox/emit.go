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
	cmd.MarkFlagsMutuallyExclusive("data", "file")
	if err := cmd.MarkFlagRequired("topic"); err != nil {
		panic(err) // there is no such flag
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l := keys.load()
		wire.CheckDatabase(l)
		checkEmit(l, &f)
		if err := l.Err(); err != nil {
			return err
		}
		return a.runEmit(cmd, l, &f)
	}
	return cmd
}

// checkEmit reports what is wrong with the headers, and takes them over.
func checkEmit(l *config.Loaded, f *emitFlags) {
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
}

func (a *app) runEmit(cmd *cobra.Command, l *config.Loaded, f *emitFlags) (err error) {
	payload, err := f.read(cmd.Flags().Changed("data"), a.stdin)
	if err != nil {
		return err
	}
	f.event.Payload = payload
	if isJSON(f.event.ContentType) {
		if !json.Valid(payload) {
			return errors.New("the payload is not valid JSON: mend it, or say by --content-type what it is")
		}
	}
	if f.event.ID == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return err
		}
		f.event.ID = id.String()
	}
	if err := emitOne(cmd.Context(), l, f.event, a.stderr); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, f.event.ID)
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

// read returns the payload.
func (f *emitFlags) read(given bool, stdin io.Reader) ([]byte, error) {
	switch {
	case given:
		return []byte(f.data), nil
	case f.file != "":
		return os.ReadFile(f.file)
	}
	data, err := io.ReadAll(stdin)
	if err != nil {
		return nil, fmt.Errorf("read the payload from standard input: %w", err)
	}
	return data, nil
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == outbox.ContentTypeJSON || strings.HasSuffix(media, "+json"))
}
