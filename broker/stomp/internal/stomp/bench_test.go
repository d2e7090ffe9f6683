package stomp

import (
	"bytes"
	"testing"
)

// published is a message as a publisher sends it.
func published() *Frame {
	return &Frame{Command: Send, Body: bytes.Repeat([]byte("x"), 250), Headers: []Header{
		{"destination", "/topic/order.placed"},
		{"receipt", "123456"},
		{"persistent", "true"},
		{"content-type", "application/json"},
		{"outbox-id", "01998d2c-7c3e-7b3a-9a51-3b5a0f2f8f11"},
		{"outbox-key", "customer-4711"},
		{"outbox-created-at", "2026-11-21T22:38:30.123456Z"},
	}}
}

func BenchmarkEncode(b *testing.B) {
	f := published()
	var buffer []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buffer, err = AppendFrame(buffer[:0], f); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buffer)))
}

func BenchmarkDecode(b *testing.B) {
	message := published()
	message.Command = Message
	for _, f := range []*Frame{{Command: Receipt, Headers: []Header{{"receipt-id", "123456"}}}, message} {
		b.Run(f.Command, func(b *testing.B) {
			stream, err := AppendFrame(nil, f)
			if err != nil {
				b.Fatal(err)
			}
			d := NewDecoder(&repeated{stream: stream}, Limits{})
			b.SetBytes(int64(len(stream)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Decode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// repeated is a stream without end.
type repeated struct {
	stream []byte
	at     int
}

func (r *repeated) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		copied := copy(b[n:], r.stream[r.at:])
		n += copied
		r.at = (r.at + copied) % len(r.stream)
	}
	return n, nil
}
