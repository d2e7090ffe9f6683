package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/outbox-go/outbox/store"
)

// Inbox makes the effects of a message in a database happen once: it remembers,
// in that database, which messages were handled. The stores pgxstore, sqlstore and
// memstore are inboxes. All methods are safe for concurrent use.
type Inbox[Tx any] interface {
	// Once runs fn in a transaction of its own, together with the writing of a
	// row for consumer and id, and commits. It reports false, without having run
	// fn, when that row is there already; a transaction that is about to write
	// the same row is waited for. When fn or the commit fails, neither the row
	// nor what fn wrote remains, unless it was the answer to the commit that was
	// lost. What fn emits with its context wakes the relay after the commit.
	//
	// consumer has up to 200 bytes and id up to 255, both valid UTF-8 without
	// zero bytes.
	Once(ctx context.Context, consumer, id string, fn func(ctx context.Context, tx Tx) error) (first bool, err error)

	// Transient reports whether err, which fn or Once returned, is one of the
	// database that passes: a serialization failure, a deadlock, a lock or a
	// connection that could not be had, a server that restarts.
	Transient(err error) bool

	// PurgeInbox deletes up to limit rows that were written longer than age ago,
	// by the database's clock, and returns how many there were.
	PurgeInbox(ctx context.Context, age time.Duration, limit int) (int, error)
}

// HandleTx is [Handle] for a handler whose effects in a database happen once. fn
// runs in a transaction of inbox that also holds a row of the queue's name and
// the message's id, and its nil commits both. A message whose row is there already
// is acknowledged without running fn; so it is safe to deliver a message twice,
// also to two workers at the same moment. When fn returns an error neither the row
// nor what fn wrote in tx remains.
//
// When the database fails in a way that passes (see [Inbox]), or its answer is
// lost, the transaction is tried again, with back-off, for
// Config.DatabaseTimeout; only then it counts as a failed attempt. So fn may run
// several times for one delivery, each time in a new transaction: what it does
// outside of tx, the inbox does not undo.
//
// A message without an id goes to the dead letters; Config.MessageID tells where
// the messages of other systems have theirs. The ids of one queue's messages must be
// unique among all their senders: two messages with one id are one message.
func HandleTx[T, Tx any](w *Worker, in Inbox[Tx], pattern string, fn func(ctx context.Context, tx Tx, d *Delivery[T]) error, opts ...HandleOption) {
	h := newHandler(pattern, opts)
	if isNil(in) {
		h.errs = append(h.errs, fmt.Errorf("worker: handler %q: the inbox is nil", pattern))
	} else {
		h.inbox = &inbox{key: in, purge: in.PurgeInbox}
	}
	if fn != nil {
		decode := decoderOf[T](w.codecs, h.strict)
		h.call = func(ctx context.Context, raw *Delivery[[]byte]) error {
			if raw.ID == "" {
				return undeliverable(errNoID)
			}
			d, err := decode(raw) // before a transaction is begun
			if err != nil {
				return undeliverable(err)
			}
			return w.once(ctx, in.Transient, func() error {
				first, err := in.Once(ctx, raw.Queue, inboxID(raw.Queue, raw.ID), func(ctx context.Context, tx Tx) error {
					fresh := d
					if d = nil; fresh == nil { // fn may have changed the first one
						if fresh, err = decode(raw); err != nil {
							return undeliverable(err)
						}
					}
					return fn(ctx, tx, fresh)
				})
				if err == nil && !first {
					w.cfg.Logger.Debug("message was handled before", "queue", raw.Queue, "id", raw.ID, "topic", raw.Topic)
				}
				return err
			})
		}
	}
	w.register(h)
}

var errNoID = errors.New("the message has no id, by which HandleTx would know it again: see Config.MessageID")

// inbox is an Inbox without its type.
type inbox struct {
	key   any // the Inbox itself
	purge func(ctx context.Context, age time.Duration, limit int) (int, error)
}

const (
	firstDatabaseBackoff = 20 * time.Millisecond
	maxDatabaseBackoff   = 2 * time.Second
)

// once tries a transaction until it succeeds, fails for good, or has failed in a
// passing way for too long.
func (w *Worker) once(ctx context.Context, transient func(error) bool, transaction func() error) error {
	timeout := w.cfg.DatabaseTimeout
	var deadline time.Time // counted from the first error
	for backoff := firstDatabaseBackoff; ; backoff = min(2*backoff, maxDatabaseBackoff) {
		err := transaction()
		if err == nil || forced(err) || !transient(err) {
			return err
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(timeout)
		}
		pause := backoff/2 + rand.N(backoff/2) //nolint:gosec // spreads load, guards nothing
		if time.Now().Add(pause).After(deadline) {
			return fmt.Errorf("the database failed for %s: %w", timeout, err)
		}
		if !sleep(ctx, pause) {
			return err
		}
	}
}

// forced reports whether a handler has said itself what is to become of the
// message.
func forced(err error) bool {
	var abort *abortError
	var retry *retryError
	return errors.As(err, &abort) || errors.As(err, &retry)
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// inboxID returns id or, if an inbox could not take it, its hash.
func inboxID(consumer, id string) string {
	if store.CheckInboxRow(consumer, id) == nil {
		return id
	}
	hash := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(hash[:])
}

func isNil(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}

const (
	purgeChunk = 1000
	purgePause = 100 * time.Millisecond
	// purgeShare is the part of the retention after which the rows are looked
	// through again.
	purgeShare       = 100
	minPurgeInterval = time.Minute
	maxPurgeInterval = time.Hour
)

// startPurging begins to delete old rows of the handlers' inboxes and returns what
// waits for the end of it, which is that of ctx.
func (r *run) startPurging(ctx context.Context, handlers []*handler) (wait func()) {
	inboxes := inboxesOf(handlers)
	var purging sync.WaitGroup
	if len(inboxes) > 0 && r.cfg.InboxRetention > 0 {
		ctx, cancel := context.WithCancel(ctx)
		purging.Go(func() { r.keepPurging(ctx, inboxes) })
		return func() {
			cancel()
			purging.Wait()
		}
	}
	return func() {}
}

// keepPurging deletes old rows of the inboxes until ctx ends: a chunk at a time,
// so that no transaction is long. Workers that do it at once share the work.
func (r *run) keepPurging(ctx context.Context, inboxes []*inbox) {
	interval := min(max(r.cfg.InboxRetention/purgeShare, minPurgeInterval), maxPurgeInterval)
	for sleep(ctx, interval/2+rand.N(interval)) { //nolint:gosec // spreads load, guards nothing
		for _, in := range inboxes {
			n, err := r.purge(ctx, in)
			switch {
			case ctx.Err() != nil:
			case err != nil:
				r.log.Warn("inbox not purged", "error", err)
			case n > 0:
				r.log.Info("inbox purged", "rows", n)
			}
		}
	}
}

func (r *run) purge(ctx context.Context, in *inbox) (rows int, err error) {
	for {
		n, err := in.purge(ctx, r.cfg.InboxRetention, purgeChunk)
		if rows += n; err != nil || n < purgeChunk {
			return rows, err
		}
		if !sleep(ctx, purgePause) {
			return rows, ctx.Err()
		}
	}
}

// inboxesOf returns the inboxes of handlers, each once.
func inboxesOf(handlers []*handler) []*inbox {
	var inboxes []*inbox
	seen := map[any]bool{}
	for _, h := range handlers {
		switch {
		case h.inbox == nil:
			continue
		case reflect.TypeOf(h.inbox.key).Comparable():
			if seen[h.inbox.key] {
				continue
			}
			seen[h.inbox.key] = true
		}
		inboxes = append(inboxes, h.inbox)
	}
	return inboxes
}
