package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/webhook/internal/cloudevent"
)

// Flush implements [outbox.Flusher]: it sends the events that wait for more. It
// returns nil; how it went is the answer to each message.
func (p *Publisher) Flush() error {
	p.gathering.Lock()
	defer p.gathering.Unlock()
	p.dispatch(context.Background())
	return nil
}

// gather adds m to the batch and sends it if it is full. It returns an error if done
// will not be called.
func (p *Publisher) gather(ctx context.Context, m *outbox.Message, done func(error)) error {
	p.gathering.Lock()
	defer p.gathering.Unlock()
	p.mu.Lock()
	err := p.fault(ctx)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	event, err := p.event(m)
	if err != nil {
		return err
	}
	// What was refused before would have others refused with it, again.
	lone := m.Attempts > 0
	if p.batch != nil && (lone || len(p.batch.body)+len(",]")+len(event) > p.config.BatchBytes) {
		p.dispatch(ctx)
	}
	if p.batch == nil {
		p.batch = &job{}
	}
	p.batch.add(member{message: m, done: done, event: event})
	if lone || len(p.batch.members) == p.config.BatchSize {
		p.dispatch(ctx)
	}
	return nil
}

// dispatch starts the batch, if there is one. The caller holds p.gathering.
func (p *Publisher) dispatch(ctx context.Context) {
	if p.batch == nil {
		return
	}
	j := p.batch
	p.batch = nil
	j.body = append(j.body, ']')
	p.start(ctx, j)
}

// add appends a member's event to the body, which lacks the end of the array.
func (j *job) add(m member) {
	separator := byte(',')
	if len(j.members) == 0 {
		separator = '['
	}
	j.body = append(append(j.body, separator), m.event...)
	j.members = append(j.members, m)
}

// sendBatch sends a batch and, if that is refused, each member by itself, so that
// one bad event holds up none but its own.
func (p *Publisher) sendBatch(j *job) []error {
	err := p.sendEvents(p.ctx, j.id(), j.body)
	if err == nil || len(j.members) == 1 || errors.Is(err, outbox.ErrUnavailable) {
		return []error{err}
	}
	errs := make([]error, 0, len(j.members))
	for _, m := range j.members {
		err := p.sendEvents(p.ctx, m.message.ID, slices.Concat([]byte("["), m.event, []byte("]")))
		errs = append(errs, err)
		if errors.Is(err, outbox.ErrUnavailable) {
			break // for those that follow, too
		}
	}
	return errs
}

// id identifies a batch by its members, since no two batches that differ may have
// the same.
func (j *job) id() string {
	if len(j.members) == 1 {
		return j.members[0].message.ID
	}
	sum := sha256.New()
	for _, m := range j.members {
		_, _ = io.WriteString(sum, m.message.ID+"\n") // a hash never fails
	}
	return "batch-" + hex.EncodeToString(sum.Sum(nil)[:16])
}

// sendEvents posts the JSON array body. The content type has no charset, which JSON
// does not need: the SDK of Go does not know a batch by it.
func (p *Publisher) sendEvents(ctx context.Context, id string, body []byte) error {
	return p.post(ctx, target{by: p.own, url: p.url, own: true}, id,
		&Request{ContentType: cloudevent.BatchContentType, Body: body})
}

// event returns m as a JSON document.
func (p *Publisher) event(m *outbox.Message) ([]byte, error) {
	event, err := cloudevent.AppendJSON(nil, m, p.config.Source)
	if err != nil {
		return nil, outbox.Invalid(fmt.Errorf("webhook: %w", err))
	}
	return event, nil
}
