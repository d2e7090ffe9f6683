package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/worker"
)

// forwarder posts each message.
func forwarder(p *webhook.Publisher) worker.Handler {
	return func(ctx context.Context, d *worker.Delivery[[]byte]) error {
		return forwarded(p.Send(ctx, &outbox.Message{
			ID: d.ID, Topic: d.Topic, Key: d.Key, Tenant: d.Tenant, Type: d.Type, Version: d.Version,
			ContentType: d.ContentType, Headers: d.Headers, Payload: d.Payload, CreatedAt: d.CreatedAt,
		}))
	}
}

// hopeless are the answers that say of the message itself that it cannot be taken.
// Others of the kind, such as 401 and 404, are mended at the receiver.
var hopeless = []int{
	http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity,
}

// forwarded returns what becomes of a message that was posted with that result. Its
// reason is in the words of the publisher alone: no broker is meant here.
func forwarded(err error) error {
	var status *webhook.StatusError
	if err == nil {
		return nil
	}
	err = plain{err}
	switch {
	case errors.Is(err, outbox.ErrInvalid), errors.As(err, &status) && slices.Contains(hopeless, status.Code):
		return worker.Abort(err)
	case outbox.DelayOf(err) > 0:
		return worker.RetryAfter(outbox.DelayOf(err), err)
	}
	if errors.As(err, &status) && status.Code/100 == 3 {
		return fmt.Errorf("%w: redirects are not followed, give the address itself", err)
	}
	return err
}

// plain is an error of a publisher's without the words of its class.
type plain struct{ error }

func (p plain) Error() string {
	text := p.error.Error()
	for _, class := range []error{outbox.ErrUnavailable, outbox.ErrRefused, outbox.ErrInvalid} {
		text = strings.TrimPrefix(text, class.Error()+": ")
	}
	return text
}

func (p plain) Unwrap() error { return p.error }
