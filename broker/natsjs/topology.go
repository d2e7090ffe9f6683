package natsjs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// topologyError is something that is missing or wrong at the server and that
// waiting does not mend.
type topologyError struct {
	what string
	hint string
}

func (e *topologyError) Error() string { return "natsjs: " + e.what + ": " + e.hint }

// ensureStream makes or checks the main stream and returns its configuration.
func (b *Broker) ensureStream(ctx context.Context, c *conn) (jetstream.StreamConfig, error) {
	stream, err := b.makeStream(ctx, c, b.streamConfig(), "create it")
	if err != nil {
		return jetstream.StreamConfig{}, err
	}
	have := stream.CachedInfo().Config
	return have, checkStream(have, b.config.SubjectPrefix+">", "change Config.Stream or Config.SubjectPrefix")
}

// makeStream returns the stream that want names. It makes it if it does not exist
// and may be made; hint begins what to do about it if not.
func (b *Broker) makeStream(ctx context.Context, c *conn, want jetstream.StreamConfig, hint string) (jetstream.Stream, error) {
	for {
		stream, err := c.js.Stream(ctx, want.Name)
		if err == nil {
			return stream, nil
		}
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, b.apiError("look up stream "+want.Name, err)
		}
		if b.config.Topology == CheckOnly {
			return nil, &topologyError{
				what: fmt.Sprintf("stream %q does not exist", want.Name),
				hint: fmt.Sprintf("%s with the subject %q, or let Config.Topology be Declare", hint, want.Subjects[0]),
			}
		}
		stream, err = c.js.CreateStream(ctx, want)
		if err == nil {
			return stream, nil
		}
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // else somebody was faster: take theirs
			return nil, b.apiError("create stream "+want.Name, err)
		}
	}
}

func (b *Broker) streamConfig() jetstream.StreamConfig {
	maxBytes := b.config.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	return jetstream.StreamConfig{
		Name:        b.config.Stream,
		Description: "messages of a transactional outbox",
		Subjects:    []string{b.config.SubjectPrefix + ">"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Storage:     jetstream.FileStorage,
		MaxAge:      b.config.MaxAge,
		MaxBytes:    maxBytes,
		MaxMsgs:     -1,
		Replicas:    b.config.Replicas,
		Duplicates:  b.config.DuplicateWindow,
	}
}

// checkStream refuses a stream that does not collect want or confirms nothing;
// instead is what to do but to add the subject.
func checkStream(have jetstream.StreamConfig, want, instead string) error {
	if !slices.ContainsFunc(have.Subjects, func(subject string) bool { return covers(subject, want) }) {
		return &topologyError{
			what: fmt.Sprintf("stream %q collects %q, not %q", have.Name, have.Subjects, want),
			hint: "add the subject, or " + instead,
		}
	}
	if have.NoAck {
		return &topologyError{
			what: fmt.Sprintf("stream %q does not acknowledge what it stores", have.Name),
			hint: "turn its no_ack off: nothing could be confirmed",
		}
	}
	return nil
}

// apiError wraps what the server answered to a question about the topology.
func (b *Broker) apiError(what string, err error) error {
	var api *jetstream.APIError
	if errors.As(err, &api) && api.Code < 500 {
		return &topologyError{what: what, hint: api.Description}
	}
	return unavailable(what, err)
}
