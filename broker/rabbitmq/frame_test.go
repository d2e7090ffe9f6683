package rabbitmq

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/outbox-go/outbox/internal/testenv"
	amqp "github.com/rabbitmq/amqp091-go"
)

// picky takes the frames of some channels.
type picky struct {
	takes map[uint16]bool
	took  []string
	rests int
}

func (p *picky) take(f frame) bool {
	if !p.takes[f.channel] {
		return false
	}
	p.took = append(p.took, string(f.payload))
	return true
}

func (p *picky) rest() { p.rests++ }

func rawFrame(channel uint16, payload string) []byte {
	b, start := beginFrame(nil, frameMethod, channel)
	return endFrame(append(b, payload...), start)
}

func TestTapTakesWholeFrames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", greatestFrame)
	var stream, rest []byte
	var want []string
	for range 3 {
		for _, payload := range []string{"", "a", long, "b"} {
			stream = append(stream, rawFrame(1, payload)...)
			want = append(want, payload)
			other := rawFrame(2, "other"+payload[:min(len(payload), greatestFrame-5)])
			stream, rest = append(stream, other...), append(rest, other...)
		}
	}
	for name, source := range map[string]io.Reader{
		"at once":   bytes.NewReader(stream),
		"in halves": iotest.HalfReader(bytes.NewReader(stream)),
		"by bytes":  iotest.OneByteReader(bytes.NewReader(stream)),
	} {
		tapped, p := newTap(source), &picky{takes: map[uint16]bool{1: true}}
		tapped.told = time.Now().Add(time.Hour) // no heartbeats
		tapped.intercept(p)
		got, err := io.ReadAll(tapped)
		if err != nil || !bytes.Equal(got, rest) {
			t.Errorf("%s: the library got %d bytes of %d, or others: %v", name, len(got), len(rest), err)
		}
		if !slices.Equal(p.took, want) || p.rests == 0 {
			t.Errorf("%s: the interceptor got %d frames of %d, or others, and had %d rests", name, len(p.took), len(want), p.rests)
		}
	}
}

// One at a time: the library has dealt with a frame when the next is looked at.
func TestTapHandsOutFrameByFrame(t *testing.T) {
	t.Parallel()
	tapped, p := newTap(bytes.NewReader(append(rawFrame(2, "first"), rawFrame(1, "second")...))), &picky{takes: map[uint16]bool{1: true}}
	tapped.intercept(p)
	if n, err := tapped.Read(make([]byte, 100)); n != frameOverhead+5 || err != nil {
		t.Fatal(n, err)
	}
	if len(p.took) > 0 {
		t.Error("the second frame was taken before the library read on")
	}
}

// What are no frames is the library's affair, which says so.
func TestTapPassesOnWhatIsNoFrame(t *testing.T) {
	t.Parallel()
	unended := rawFrame(1, "x")
	unended[len(unended)-1] = 0
	for _, text := range []string{"AMQP\x00\x00\x09\x01", string(unended), "\x01\x00\x01\xff\xff\xff\xffx"} {
		tapped, p := newTap(strings.NewReader(text)), &picky{takes: map[uint16]bool{1: true}}
		tapped.intercept(p)
		if got, err := io.ReadAll(tapped); string(got) != text || err != nil || len(p.took) > 0 {
			t.Errorf("%q became %q, %v", text, got, err)
		}
	}
}

// While a broker has much to say it sends no heartbeats, and the library would take
// it for dead.
func TestTapTellsThatTheBrokerLives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := io.Pipe()
		tapped, p := newTap(ours), &picky{takes: map[uint16]bool{1: true}}
		tapped.intercept(p)
		go func() {
			for range 100 {
				time.Sleep(aliveInterval / 10)
				_, _ = theirs.Write(rawFrame(1, "x"))
			}
			_ = theirs.Close()
		}()
		got, err := io.ReadAll(tapped)
		if beats := bytes.Count(got, heartbeat); beats < 9 || beats > 11 || len(got) != beats*len(heartbeat) || err != nil {
			t.Errorf("the library got %d bytes, %d heartbeats in ten intervals: %v", len(got), beats, err)
		}
	})
}

// The library reads the same from the same delivery.
func TestDecodesAsTheLibrary(t *testing.T) {
	t.Parallel()
	address := testenv.RabbitMQ(t).NewVHost(t)
	ch, theirs := rawChannel(t, address), map[string]<-chan amqp.Delivery{}
	arrived := newDeliveries()
	for queue, ch := range map[string]*amqp.Channel{"library": ch, "ours": intercepted(t, address, arrived)} {
		if err := exchangeEntity(DefaultExchange, amqp.ExchangeTopic).declare(ch); err != nil {
			t.Fatal(err)
		}
		q := &entity{kind: "queue", name: queue, bindings: []binding{{DefaultExchange, "#"}}}
		if err := q.ensure(ch, Declare); err != nil {
			t.Fatal(err)
		}
		var err error
		if theirs[queue], err = ch.Consume(queue, "", true, false, false, false, nil); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1_700_000_000, 0)
	for _, sent := range []amqp.Publishing{
		{},
		{MessageId: "1", Body: bytes.Repeat([]byte("long"), greatestFrame)},
		{
			ContentType: "a/b", ContentEncoding: "c", DeliveryMode: 2, Priority: 3, CorrelationId: "d", ReplyTo: "e",
			Expiration: "100000", MessageId: "f", Timestamp: at, Type: "g", UserId: "guest", AppId: "h", Body: []byte("i"),
			Headers: amqp.Table{
				"bool": true, "byte": byte(200), "int8": int8(-3), "int16": int16(-300), "uint16": uint16(60_000), "int32": int32(-70_000),
				"uint32": uint32(math.MaxUint32), "int64": int64(math.MinInt64), "float32": float32(1.5), "float64": 2.5, "nil": nil,
				"decimal": amqp.Decimal{Scale: 2, Value: 314}, "time": at, "bytes": []byte{0, 255}, "text": "x", "empty": "",
				"list": []any{"a", int32(1), []any{true}}, "table": amqp.Table{"a": amqp.Table{"b": "c"}}, "none": amqp.Table{},
			},
		},
	} {
		if err := ch.Publish(DefaultExchange, "a.b", true, false, sent); err != nil {
			t.Fatal(err)
		}
		want := <-theirs["library"]
		<-arrived.wake
		list := arrived.all(nil)
		if len(list) != 1 {
			t.Fatalf("%d messages arrived", len(list))
		}
		got := list[0].Delivery
		want.Acknowledger, want.ConsumerTag = nil, got.ConsumerTag
		if len(want.Body) == 0 {
			want.Body = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+.1000v\nwant %+.1000v", got, want)
		}
	}
}

// intercepted opens a channel on a connection whose deliveries go to i.
func intercepted(t *testing.T, address string, i interceptor) (ch *amqp.Channel) {
	t.Helper()
	e, err := newEndpoint(address, quick.withDefaults("test"), nil)
	if err == nil {
		err = e.connect(t.Context(), func(c *connection) error {
			t.Cleanup(c.close)
			c.socket.intercept(i)
			ch, err = c.Channel()
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func TestMalformedDeliveriesAreRefused(t *testing.T) {
	t.Parallel()
	method := binary.BigEndian.AppendUint32(nil, methodBasicDeliver)
	method = append(method, "\x01c\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01e\x01k"...)
	head := func(size uint64, flags uint16, rest string) []byte {
		b := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, classBasic<<16), size)
		return append(binary.BigEndian.AppendUint16(b, flags), rest...)
	}
	for name, c := range map[string]struct {
		header []byte
		body   string
	}{
		"no header":        {nil, ""},
		"short text":       {head(0, hasMessageID, "\x05abc"), ""},
		"long table":       {head(0, hasHeaders, "\x00\x00\x00\xff\x01a"), ""},
		"unknown type":     {head(0, hasHeaders, "\x00\x00\x00\x04\x01aZ?"), ""},
		"no type":          {head(0, hasHeaders, "\x00\x00\x00\x02\x01a"), ""},
		"too much content": {head(3, 0, ""), "abcd"},
		"too deep":         {head(0, hasHeaders, deep(maxDepth+2)), ""},
	} {
		d := newDeliveries()
		d.take(frame{frameMethod, 1, method})
		d.take(frame{frameHeader, 1, c.header})
		if c.body != "" {
			d.take(frame{frameBody, 1, []byte(c.body)})
		}
		d.rest()
		if len(d.failed) == 0 || !errors.Is(<-d.failed, errMalformed) || len(d.all(nil)) > 0 {
			t.Errorf("%s: it was taken", name)
		}
	}
}

// A great message is copied once. Not parallel: it counts allocations.
func TestGreatMessageGrowsTheBufferOnce(t *testing.T) {
	m := benchMessage(1)
	m.Payload = make([]byte, 4<<20)
	for _, frameSize := range []int{0, greatestFrame} {
		r := route{channel: 1, exchange: DefaultExchange, frameSize: frameSize}
		room := make([]byte, 0, 4096)
		var got []byte
		if n := testing.AllocsPerRun(5, func() { got = r.appendMessage(room, &m, "") }); n != 1 {
			t.Errorf("frames of %d bytes: %v allocations, want 1", frameSize, n)
		}
		if spare := cap(got) - len(got); spare > 64<<10 {
			t.Errorf("frames of %d bytes: %d bytes too many", frameSize, spare)
		}
	}
}

// deep returns tables in tables.
func deep(n int) string {
	b := []byte{0, 0, 0, 0}
	for range n {
		inner := append([]byte("\x01aF"), b...)
		b = append(binary.BigEndian.AppendUint32(nil, uint32(len(inner))), inner...)
	}
	return string(b)
}
