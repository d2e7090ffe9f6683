package acceptance

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

// boxTable is a user's own: a storage box, of which this module knows nothing.
const boxTable = `CREATE TABLE box (
	n INTEGER PRIMARY KEY, id TEXT NOT NULL, topic TEXT NOT NULL, payload TEXT NOT NULL,
	status TEXT NOT NULL DEFAULT 'WAITING', retries INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '')`

// box is an item of it.
type box struct {
	n                   int
	id, topic, payload  string
	status, lastFailure string
	retries             int
}

// boxAttempts is how often the user's table lets an item fail.
const boxAttempts = 3

// boxes is the user's source.
type boxes struct {
	t  *testing.T
	db *sql.DB
}

func (s *system) newBoxes(t *testing.T) *boxes {
	t.Helper()
	execute(t, s, boxTable)
	return &boxes{t, s.sql()}
}

// add puts an item for each topic into the table.
func (b *boxes) add(topics ...string) {
	b.t.Helper()
	for _, topic := range topics {
		_, err := b.db.ExecContext(context.Background(),
			`INSERT INTO box (n, id, topic, payload) VALUES ((SELECT count(*) FROM box), $1, $2, $3)`, uuid.NewString(), topic, `{"of":"`+topic+`"}`)
		must(b.t, err)
	}
}

func (b *boxes) query(ctx context.Context, where string, args ...any) (list []box, err error) {
	rows, err := b.db.QueryContext(ctx, `SELECT n, id, topic, payload, status, retries, error FROM box WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x box
		if err := rows.Scan(&x.n, &x.id, &x.topic, &x.payload, &x.status, &x.retries, &x.lastFailure); err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return list, rows.Err()
}

// of returns the item of a topic.
func (b *boxes) of(topic string) box {
	b.t.Helper()
	list, err := b.query(context.Background(), `topic = $1`, topic)
	must(b.t, err)
	if len(list) != 1 {
		b.t.Fatalf("%d items of %s", len(list), topic)
	}
	return list[0]
}

func (b *boxes) Fetch(ctx context.Context, limit int) ([]box, error) {
	return b.query(ctx, `status = 'WAITING' ORDER BY n LIMIT $1`, limit)
}

func (b *boxes) Sent(ctx context.Context, item box) error {
	_, err := b.db.ExecContext(ctx, `UPDATE box SET status = 'PUBLISHED' WHERE n = $1`, item.n)
	return err
}

func (b *boxes) Failed(ctx context.Context, item box, cause error) error {
	_, err := b.db.ExecContext(ctx, `UPDATE box SET retries = retries + 1, error = $2,
		status = CASE WHEN retries + 1 >= $3 THEN 'FAILED' ELSE 'WAITING' END WHERE n = $1`, item.n, cause.Error(), boxAttempts)
	return err
}

// unbox is the user's mapper.
func unbox(_ context.Context, item box) (*outbox.Message, error) {
	return &outbox.Message{ID: item.id, Topic: item.topic, ContentType: outbox.ContentTypeJSON, Payload: []byte(item.payload)}, nil
}

// asCloudEvent is another mapper of theirs.
func asCloudEvent(_ context.Context, item box) (*outbox.Message, error) {
	text := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/box","type":%q,"data":%s}`, item.id, item.topic, item.payload)
	return &outbox.Message{ID: item.id, Topic: "event." + item.topic, ContentType: "application/cloudevents+json", Payload: []byte(text)}, nil
}

// toBroker is a publishing function for the system's broker.
func (s *system) toBroker(t *testing.T) outbox.PublishFunc {
	t.Helper()
	p, err := openPublisher(s.address)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return relay.Wait(p)
}

func wantProduced[T any](t *testing.T, p *relay.Producer[T], want relay.Result) {
	t.Helper()
	got, err := p.Produce(t.Context())
	if err != nil || got != want {
		t.Errorf("Produce returned %+v, %v; want %+v", got, err, want)
	}
}

func TestP02_EmptySource(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		source := s.newBoxes(t)
		never := func(context.Context, *outbox.Message) error {
			t.Error("something was sent")
			return nil
		}
		wantProduced(t, relay.NewProducer(source, unbox, never, nil), relay.Result{})
	})
}

func TestP03_OneItem(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		source := s.newBoxes(t)
		source.add("a")
		p := relay.NewProducer(source, unbox, s.toBroker(t), nil)
		wantProduced(t, p, relay.Result{Taken: 1, Sent: 1})
		wantProduced(t, p, relay.Result{})
		item := source.of("a")
		if d := r.await(1)[0]; d.ID != item.id || string(d.Payload) != item.payload {
			t.Errorf("delivered was %+v with %s, want the item %+v", d.Metadata, d.Payload, item)
		}
		if item.status != "PUBLISHED" {
			t.Errorf("the item is %+v", item)
		}
	})
}

// queueSource is a source that is no database.
type queueSource struct {
	waiting []string
	sent    []string
}

func (q *queueSource) Fetch(_ context.Context, limit int) ([]string, error) {
	return slices.Clone(q.waiting[:min(limit, len(q.waiting))]), nil
}

func (q *queueSource) Sent(_ context.Context, item string) error {
	q.waiting, q.sent = q.waiting[1:], append(q.sent, item)
	return nil
}

func (q *queueSource) Failed(context.Context, string, error) error { return nil }

func (q *queueSource) message(_ context.Context, topic string) (*outbox.Message, error) {
	return &outbox.Message{ID: uuid.NewString(), Topic: topic}, nil
}

// TestP05_EachPartIsReplacedAlone: in each case one part is the user's other one, and
// all the rest stays.
func TestP05_EachPartIsReplacedAlone(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		r, send := s.startWorker(t), s.toBroker(t)
		source := s.newBoxes(t)
		t.Run("Source", func(t *testing.T) {
			q := &queueSource{waiting: []string{"queued"}}
			wantProduced(t, relay.NewProducer(q, q.message, send, nil), relay.Result{Taken: 1, Sent: 1})
			if got := r.await(1)[0].Topic; got != "queued" || !slices.Equal(q.sent, []string{"queued"}) {
				t.Errorf("delivered was %q, noted as sent %q", got, q.sent)
			}
		})
		t.Run("Mapper", func(t *testing.T) {
			source.add("mapped")
			wantProduced(t, relay.NewProducer(source, asCloudEvent, send, nil), relay.Result{Taken: 1, Sent: 1})
			if d := r.await(2)[1]; d.Topic != "event.mapped" || !strings.Contains(string(d.Payload), `"data":{"of":"mapped"}`) {
				t.Errorf("delivered was %s with %s", d.Topic, d.Payload)
			}
		})
		t.Run("Publisher", func(t *testing.T) {
			source.add("published")
			var sent []string
			own := func(_ context.Context, m *outbox.Message) error {
				sent = append(sent, m.Topic)
				return nil
			}
			wantProduced(t, relay.NewProducer(source, unbox, own, nil), relay.Result{Taken: 1, Sent: 1})
			if status := source.of("published").status; status != "PUBLISHED" || !slices.Equal(sent, []string{"published"}) {
				t.Errorf("sent was %q, and the item is %s", sent, status)
			}
		})
		t.Run("Runner", func(t *testing.T) {
			source.add("one", "two", "three")
			p := relay.NewProducer(source, unbox, send, &relay.ProducerConfig{Limit: 1})
			steps := 0
			for result := (relay.Result{Sent: 1}); result.Sent > 0; steps++ { // as a cron job would
				var err error
				result, err = p.Produce(t.Context())
				must(t, err)
			}
			if r.await(5); steps != 4 {
				t.Errorf("%d steps for 3 items of one each, want 4", steps)
			}
		})
	})
}

// wantFails runs a producer that fails with the items of one topic: the attempts
// are counted, the others go on, and in the end it is given up and stays visible.
func (s *system) wantFails(t *testing.T, produce func(*boxes) *relay.Producer[box], why string) {
	r := s.startWorker(t)
	source := s.newBoxes(t)
	source.add("failing", "good.1", "good.2")
	p := produce(source)
	for attempt := 1; attempt <= boxAttempts; attempt++ {
		want := relay.Result{Taken: 1, Failed: 1}
		if attempt == 1 {
			want = relay.Result{Taken: 3, Failed: 1, Sent: 2}
		}
		wantProduced(t, p, want)
		status := "WAITING"
		if attempt == boxAttempts {
			status = "FAILED"
		}
		if item := source.of("failing"); item.retries != attempt || item.status != status || !strings.Contains(item.lastFailure, why) {
			t.Errorf("after attempt %d the item is %+v, want %s with %q", attempt, item, status, why)
		}
	}
	wantProduced(t, p, relay.Result{}) // given up
	for _, d := range r.await(2) {
		if !strings.HasPrefix(d.Topic, "good.") {
			t.Errorf("delivered was %s", d.Topic)
		}
	}
}

func TestP06_PublisherFails(t *testing.T) {
	eachSystem(t, func(t *testing.T, s *system) {
		s.wantFails(t, func(source *boxes) *relay.Producer[box] {
			send := s.toBroker(t)
			return relay.NewProducer(source, unbox, func(ctx context.Context, m *outbox.Message) error {
				if m.Topic == "failing" {
					return errNoLuck
				}
				return send(ctx, m)
			}, nil)
		}, errNoLuck.Error())
	})
}

func TestP07_MapperFails(t *testing.T) {
	for name, fail := range map[string]func() error{
		"Error": func() error { return errNoLuck },
		"Panic": func() error { panic(errNoLuck) },
	} {
		t.Run(name, func(t *testing.T) {
			eachSystem(t, func(t *testing.T, s *system) {
				s.wantFails(t, func(source *boxes) *relay.Producer[box] {
					return relay.NewProducer(source, func(ctx context.Context, item box) (*outbox.Message, error) {
						if item.topic == "failing" {
							return nil, fail()
						}
						return unbox(ctx, item)
					}, s.toBroker(t), nil)
				}, errNoLuck.Error())
			})
		})
	}
}

// faultySteps are those of a runner: the first fails, the second panics.
type faultySteps struct {
	p            *relay.Producer[box]
	begins, ends []time.Time
}

func (s *faultySteps) step(ctx context.Context) error {
	s.begins = append(s.begins, time.Now())
	defer func() { s.ends = append(s.ends, time.Now()) }()
	switch len(s.begins) {
	case 1:
		return errNoLuck
	case 2:
		panic(errNoLuck)
	}
	_, err := s.p.Produce(ctx)
	return err
}

func TestP13_RunnersIntervalAndStop(t *testing.T) {
	const interval = 50 * time.Millisecond
	eachSystem(t, func(t *testing.T, s *system) {
		r := s.startWorker(t)
		source := s.newBoxes(t)
		run := &faultySteps{p: relay.NewProducer(source, unbox, s.toBroker(t), nil)}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			relay.Every(ctx, interval, run.step, quiet())
		}()
		for i := range 3 { // one after another, by steps of their own
			source.add(fmt.Sprint("item.", i))
			r.await(i + 1)
		}
		cancel()
		<-ended
		for i := 1; i < len(run.begins); i++ {
			if gap := run.begins[i].Sub(run.ends[i-1]); gap < interval {
				t.Errorf("step %d began %v after the one before had ended, want %v at least", i+1, gap, interval)
			}
		}
		if len(run.begins) < 5 {
			t.Errorf("%d steps, want at least two that fail and one for each item", len(run.begins))
		}
		wantPromptStop(t, source)
	})
}

// wantPromptStop stops a runner that waits for an hour, and one whose step is at work.
func wantPromptStop(t *testing.T, source *boxes) {
	t.Helper()
	source.add("held")
	ctx, cancel := context.WithCancel(t.Context())
	sending := make(chan struct{})
	p := relay.NewProducer(source, unbox, func(ctx context.Context, _ *outbox.Message) error {
		close(sending)
		<-ctx.Done()
		return ctx.Err()
	}, &relay.ProducerConfig{Timeout: time.Hour})
	for _, step := range []func(context.Context) error{
		func(context.Context) error { close(sending); return nil },
		func(ctx context.Context) error { _, err := p.Produce(ctx); return err },
	} {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			relay.Every(ctx, time.Hour, step, quiet())
		}()
		<-sending
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("the runner goes on")
		}
		ctx, cancel = context.WithCancel(t.Context())
		sending = make(chan struct{})
	}
	cancel()
	if item := source.of("held"); item.retries != 0 || item.status != "WAITING" {
		t.Errorf("the item that was being sent at the stop is %+v, want it untouched", item)
	}
}
