package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

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
	// What was refused before, or not answered, would do the same to others again.
	lone := m.Attempts > 0 || p.suspects.has(m.ID)
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

// sendBatch sends a batch and returns the answer of those members that have none
// yet. If the batch is refused for what may be one bad event, each is sent by itself,
// so that it holds up none but its own. That takes no longer than a request may, and
// those that are not reached are refused like the batch: when they come again, they
// are sent alone.
func (p *Publisher) sendBatch(j *job) error {
	err := p.sendEvents(p.ctx, j.members, j.body)
	if len(j.members) == 1 || !mayBeOfOne(err) {
		return err
	}
	end := time.Now().Add(p.config.Timeout)
	for j.answered < len(j.members) && time.Now().Before(end) {
		m := j.members[j.answered]
		err := p.sendEvents(p.ctx, []member{m}, slices.Concat([]byte("["), m.event, []byte("]")))
		if errors.Is(err, outbox.ErrUnavailable) {
			return err // for those that follow, too
		}
		m.done(err)
		j.answered++
	}
	return err
}

// mayBeOfOne reports whether a batch may be refused for one of its events. A server
// that asks to be left alone for a while is not asked for each of them.
func mayBeOfOne(err error) bool {
	var status *StatusError
	if !errors.As(err, &status) || status.RetryAfter > 0 {
		return false
	}
	switch status.Code {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusInternalServerError:
		return true
	}
	return false
}

// batchID identifies a batch by its members, since no two batches that differ may
// have the same.
func batchID(ids []string) string {
	if len(ids) == 1 {
		return ids[0]
	}
	sum := sha256.New()
	for _, id := range ids {
		_, _ = io.WriteString(sum, id+"\n") // a hash never fails
	}
	return "batch-" + hex.EncodeToString(sum.Sum(nil)[:16])
}

// sendEvents posts the JSON array body of the members' events. The content type has
// no charset, which JSON does not need: the SDK of Go does not know a batch by it.
func (p *Publisher) sendEvents(ctx context.Context, members []member, body []byte) error {
	ids := make([]string, len(members))
	for i, m := range members {
		ids[i] = m.message.ID
	}
	return p.post(ctx, p.home(ids...), batchID(ids), &Request{ContentType: cloudevent.BatchContentType, Body: body})
}

// event returns m as a JSON document.
func (p *Publisher) event(m *outbox.Message) ([]byte, error) {
	event, err := cloudevent.AppendJSON(nil, m, p.config.Source)
	if err != nil {
		return nil, outbox.Invalid(fmt.Errorf("webhook: %w", err))
	}
	return event, nil
}
