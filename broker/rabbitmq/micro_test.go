package rabbitmq

import (
	"context"
	"encoding/binary"
	"testing"

	"github.com/outbox-go/outbox"
)

// BenchmarkEncode measures writing the frames of a message.
func BenchmarkEncode(b *testing.B) {
	m := benchMessage(1)
	r := route{channel: 1, exchange: DefaultExchange, mandatory: true, frameSize: greatestFrame}
	b.ReportAllocs()
	var frames []byte
	for b.Loop() {
		frames = r.appendMessage(frames[:0], &m, "")
	}
	b.SetBytes(int64(len(frames)))
}

// BenchmarkDecode measures what becomes of the frames of a delivery until a handler
// could have it, and its acknowledgement.
func BenchmarkDecode(b *testing.B) {
	m := benchMessage(1)
	properties := appendProperties(nil, &m, "")
	header := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, classBasic<<16), uint64(len(m.Payload)))
	frames := []frame{{frameMethod, 1, nil}, {frameHeader, 1, append(header, properties...)}, {frameBody, 1, m.Payload}}
	arrived := newDeliveries()
	c := &consumer{sub: all(1000), queue: "q"}
	d := &delivery{ledger: newLedger(deaf{}, 1000), ended: make(chan struct{})}
	c.receive = func(r *outbox.Received) { _ = r.Settle(outbox.Settlement{Outcome: outbox.Ack}) }
	var batch []*arrival
	var tag uint64
	b.ReportAllocs()
	for b.Loop() {
		tag++
		method := binary.BigEndian.AppendUint32(frames[0].payload[:0], methodBasicDeliver)
		method = appendShort(method, consumerTag)
		method = append(binary.BigEndian.AppendUint64(method, tag), 0)
		frames[0].payload = appendShort(appendShort(method, DefaultExchange), m.Topic)
		for _, f := range frames {
			if !arrived.take(f) {
				b.Fatal("a frame was not taken")
			}
		}
		arrived.rest()
		batch = arrived.all(batch)
		for _, a := range batch {
			c.pass(context.Background(), d, a)
		}
	}
}

// BenchmarkWindow measures letting a message in among 1,000 others and its confirm,
// 50 at once.
func BenchmarkWindow(b *testing.B) {
	const together = 50
	w := newWindow()
	ids := make([]string, 2*benchWindow)
	for i := range ids {
		ids[i] = benchMessage(i).ID
	}
	next := 0
	add := func() {
		if w.admits(ids[next%len(ids)]) {
			w.add(ids[next%len(ids)], nil)
		}
		next++
	}
	for range benchWindow {
		add()
	}
	b.ReportAllocs()
	for b.Loop() {
		add()
		if next%together == 0 {
			first, last, _ := w.answered(w.head+together-1, true)
			for tag := first; tag <= last; tag++ {
				w.take(tag)
			}
		}
	}
}

// BenchmarkLedger measures a delivery and its acknowledgement among 500 others, in
// order and backwards by tens.
func BenchmarkLedger(b *testing.B) {
	const unsettled = 500
	for name, group := range map[string]int{"in order": 1, "backwards": 10} {
		b.Run(name, func(b *testing.B) {
			l := newLedger(deaf{}, 4*unsettled)
			entries := make([]entry, 2*unsettled)
			tag := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				e := &entries[tag%uint64(len(entries))]
				tag++
				*e = entry{tag: tag}
				l.add(e)
				if tag >= unsettled && tag%uint64(group) == 0 {
					for i := range uint64(group) {
						_ = l.ack(&entries[(tag-unsettled+uint64(group)-1-i)%uint64(len(entries))])
					}
				}
			}
		})
	}
}

// deaf is a channel that takes everything.
type deaf struct{}

func (deaf) Ack(uint64, bool) error    { return nil }
func (deaf) Reject(uint64, bool) error { return nil }
func (deaf) IsClosed() bool            { return false }
