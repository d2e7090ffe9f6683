package rabbitmq

import (
	"math"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// maxDepth is how deep tables and arrays may be in one another.
const maxDepth = 32

// cursor reads values of AMQP's types (4.2.5, with the letters that RabbitMQ uses:
// https://www.rabbitmq.com/amqp-0-9-1-errata#section_3). What is not there is zero
// and counts as a failure.
type cursor struct {
	rest   string
	failed bool
}

func (c *cursor) bytes(n uint64) string {
	if n > uint64(len(c.rest)) {
		c.rest, c.failed = "", true
		return ""
	}
	s := c.rest[:n]
	c.rest = c.rest[n:]
	return s
}

func (c *cursor) number(size int) uint64 {
	var n uint64
	s := c.bytes(uint64(size))
	for i := range len(s) {
		n = n<<8 | uint64(s[i])
	}
	return n
}

func (c *cursor) uint8() uint8   { return uint8(c.number(1)) }
func (c *cursor) uint16() uint16 { return uint16(c.number(2)) }
func (c *cursor) uint32() uint32 { return uint32(c.number(4)) }
func (c *cursor) uint64() uint64 { return c.number(8) }
func (c *cursor) short() string  { return c.bytes(uint64(c.uint8())) }
func (c *cursor) long() string   { return c.bytes(uint64(c.uint32())) }

// table reads a table that is in so many others.
func (c *cursor) table(depth int) amqp.Table {
	in := c.nested(depth)
	t := make(amqp.Table)
	for len(in.rest) > 0 {
		name := in.short()
		t[name] = in.field(depth)
	}
	c.failed = c.failed || in.failed
	return t
}

func (c *cursor) array(depth int) []any {
	in := c.nested(depth)
	var list []any
	for len(in.rest) > 0 {
		list = append(list, in.field(depth))
	}
	c.failed = c.failed || in.failed
	return list
}

// nested returns a cursor over what is in a table or an array.
func (c *cursor) nested(depth int) cursor {
	in := cursor{rest: c.long()}
	if depth > maxDepth {
		return cursor{failed: true}
	}
	return in
}

// field reads a value of any type, as the library does.
func (c *cursor) field(depth int) any {
	switch c.uint8() {
	case 'S':
		return c.long()
	case 't':
		return c.uint8() != 0
	case 'B':
		return c.uint8()
	case 'b':
		return int8(c.uint8())
	case 's':
		return int16(c.uint16())
	case 'u':
		return c.uint16()
	case 'I':
		return int32(c.uint32())
	case 'i':
		return c.uint32()
	case 'l':
		return int64(c.uint64())
	case 'f':
		return math.Float32frombits(c.uint32())
	case 'd':
		return math.Float64frombits(c.uint64())
	case 'D':
		return amqp.Decimal{Scale: c.uint8(), Value: int32(c.uint32())}
	case 'T':
		return time.Unix(int64(c.uint64()), 0)
	case 'x':
		return []byte(c.long())
	case 'A':
		return c.array(depth + 1)
	case 'F':
		return c.table(depth + 1)
	case 'V':
		return nil
	}
	c.rest, c.failed = "", true
	return nil
}
