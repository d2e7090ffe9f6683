package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store"
)

// suicideChild is a relay whose broker is its standard output, or a process that
// redrives or retries, which kills itself at a point.
type suicideChild struct {
	Point  failPoint // none if Op is empty
	Cured  bool
	Places []int64     // to be redriven
	Refs   []store.Ref // to be retried
}

func (c *childConfig) runSuicide(ctx context.Context) error {
	s, closeStore, err := openStore(c.Database)
	if err != nil {
		return err
	}
	defer closeStore()
	fmt.Println("started")
	at := &countdown{point: c.Suicide.Point}
	switch admin := s.(store.Admin); {
	case c.Suicide.Places != nil:
		return at.around(opRedrive, func() error {
			_, err := admin.Redrive(ctx, c.Suicide.Places)
			return err
		})
	case c.Suicide.Refs != nil:
		return at.around(opUnblock, func() error {
			_, err := admin.Retry(ctx, c.Suicide.Refs)
			return err
		})
	}
	c.Relay.Config.Logger = quiet()
	mined := &minedStore{Store: s, at: at}
	return relay.New(mined, &printer{at: at, cured: c.Suicide.Cured}, &c.Relay.Config).Run(ctx)
}

// countdown kills the process at its point. Relays do each kind of operation from
// one goroutine at a time.
type countdown struct {
	point failPoint
	seen  int
}

func (c *countdown) around(op operation, do func() error) error {
	due := false
	if op == c.point.Op {
		c.seen++
		due = c.seen == c.point.N
	}
	if due && !c.point.After {
		// What must not be done before this would show.
		time.Sleep(50 * time.Millisecond)
		killSelf()
		select {}
	}
	err := do()
	if due {
		killSelf()
		select {}
	}
	return err
}

// minedStore kills its process at a point.
type minedStore struct {
	relay.Store
	at *countdown
}

func (s *minedStore) Read(ctx context.Context, r ...store.ReadRequest) (pages []store.Page, err error) {
	err = s.at.around(opRead, func() error {
		pages, err = s.Store.Read(ctx, r...)
		return err
	})
	return pages, err
}

func (s *minedStore) Settle(ctx context.Context, refs []store.Ref, keep bool) error {
	return s.at.around(opSettle, func() error { return s.Store.Settle(ctx, refs, keep) })
}

func (s *minedStore) Fail(ctx context.Context, failures []store.Failure) error {
	return s.at.around(s.kind(failures), func() error { return s.Store.Fail(ctx, failures) })
}

// kind is the point's own if one of the failures is of it.
func (s *minedStore) kind(failures []store.Failure) operation {
	for _, f := range failures {
		kind := opRetry
		switch {
		case f.Dead == store.Parked:
			kind = opFollow
		case f.Dead != "" && f.Park:
			kind = opPark
		case f.Dead != "":
			kind = opDie
		case f.RetryIn == store.Never:
			kind = opBlock
		}
		if kind == s.at.point.Op {
			return kind
		}
	}
	return ""
}

func (s *minedStore) Parked(ctx context.Context, shards store.ShardSet) (keys []store.Key, err error) {
	err = s.at.around(opParked, func() error {
		keys, err = s.Store.Parked(ctx, shards)
		return err
	})
	return keys, err
}

func (s *minedStore) Promote(ctx context.Context, limit int) (p store.Promotion, err error) {
	op := opPromote
	if s.at.point.Op == opPromote && s.at.seen == 0 && !s.due(ctx) {
		op = "" // there is nothing to move
	}
	err = s.at.around(op, func() error {
		p, err = s.Store.Promote(ctx, limit)
		return err
	})
	return p, err
}

func (s *minedStore) due(ctx context.Context) bool {
	list, err := s.Store.(store.Admin).List(ctx, store.Query{State: store.Scheduled, Limit: 1})
	return err == nil && len(list) > 0
}

// printer is a broker on the standard output: what is written there has arrived,
// whatever becomes of the process.
type printer struct {
	at    *countdown
	cured bool
}

const printed = "sent "

func (p *printer) Publish(_ context.Context, m *outbox.Message, done func(error)) {
	var s step
	if err := json.Unmarshal(m.Payload, &s); err != nil {
		done(outbox.Invalid(err))
		return
	}
	if s.Poison && !p.cured {
		done(outbox.Refused(errPoison))
		return
	}
	fmt.Printf("%s%s\n", printed, m.Payload)
	_ = p.at.around(opAnswer, func() error {
		done(nil)
		return nil
	})
}

func (p *printer) Close() error { return nil }
