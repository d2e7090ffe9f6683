package rabbitmq

import (
	"encoding/binary"
	"slices"

	"github.com/outbox-go/outbox"
)

// What AMQP 0-9-1 says of frames (2.3.5, 4.2.3): a kind, a channel, a length, as
// many bytes and an end. The library opens and closes connections and channels and
// declares what is to be there; the few frames that come with each message are
// ours, since it takes some seventy allocations to write one message and ninety to
// read one.
const (
	frameMethod = 1
	frameHeader = 2
	frameBody   = 3
	frameEnd    = 0xCE

	frameHead     = 7             // kind, channel and length
	frameOverhead = frameHead + 1 // and the end
)

// Methods, their class in the upper half.
const (
	methodChannelClose  = 20<<16 | 40
	methodBasicPublish  = 60<<16 | 40
	methodBasicReturn   = 60<<16 | 50
	methodBasicDeliver  = 60<<16 | 60
	methodBasicAck      = 60<<16 | 80
	methodBasicNack     = 60<<16 | 120
	methodConfirmSelect = 85<<16 | 11 // the broker's answer to it
)

const classBasic = 60

// Properties of a message by the bits that say which are there; they come in this
// order.
const (
	hasContentType = 1 << (15 - iota)
	hasContentEncoding
	hasHeaders
	hasDeliveryMode
	hasPriority
	hasCorrelationID
	hasReplyTo
	hasExpiration
	hasMessageID
	hasTimestamp
	hasType
	hasUserID
	hasAppID
)

const persistent = 2

// frame is a frame that the broker has sent. Its payload is valid for a moment.
type frame struct {
	kind    byte
	channel uint16
	payload []byte
}

// method returns which method a frame of that kind has; 0 is none.
func (f *frame) method() uint32 {
	if f.kind != frameMethod || len(f.payload) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(f.payload)
}

// route is what all messages of a publisher's session have in common.
type route struct {
	channel   uint16
	exchange  string
	mandatory bool
	frameSize int // the greatest, with its overhead; 0 is without limit
}

// appendMessage appends the frames that publish m. propertiesFault has nothing
// against m, and propertiesSize(m) fits in a frame. An expiration is for tests.
func (r *route) appendMessage(b []byte, m *outbox.Message, expiration string) []byte {
	b, start := beginFrame(b, frameMethod, r.channel)
	b = binary.BigEndian.AppendUint32(b, methodBasicPublish)
	b = append(b, 0, 0)
	b = appendShort(b, r.exchange)
	b = appendShort(b, m.Topic)
	b = append(b, bit(r.mandatory))
	b = endFrame(b, start)

	b, start = beginFrame(b, frameHeader, r.channel)
	b = binary.BigEndian.AppendUint32(b, classBasic<<16) // and a weight of 0
	b = binary.BigEndian.AppendUint64(b, uint64(len(m.Payload)))
	b = appendProperties(b, m, expiration)
	b = endFrame(b, start)

	most := r.frameSize - frameOverhead
	b = slices.Grow(b, r.bodySize(len(m.Payload)))
	for rest := m.Payload; len(rest) > 0; {
		part := rest
		if most > 0 && len(part) > most {
			part = part[:most]
		}
		rest = rest[len(part):]
		b, start = beginFrame(b, frameBody, r.channel)
		b = append(b, part...)
		b = endFrame(b, start)
	}
	return b
}

// bodySize returns how many bytes the frames of a payload take.
func (r *route) bodySize(payload int) int {
	frames := 1
	if most := r.frameSize - frameOverhead; most > 0 {
		frames = (payload + most - 1) / most
	}
	return payload + frames*frameOverhead
}

// beginFrame appends the head of a frame whose length is not known yet.
func beginFrame(b []byte, kind byte, channel uint16) (_ []byte, start int) {
	return append(b, kind, byte(channel>>8), byte(channel), 0, 0, 0, 0), len(b) + frameHead
}

func endFrame(b []byte, start int) []byte {
	putLength(b, start)
	return append(b, frameEnd)
}

// putLength writes before start how much has been appended since.
func putLength(b []byte, start int) {
	binary.BigEndian.PutUint32(b[start-4:], uint32(len(b)-start))
}

func appendShort(b []byte, s string) []byte {
	return append(append(b, byte(len(s))), s...)
}

func bit(set bool) byte {
	if set {
		return 1
	}
	return 0
}
