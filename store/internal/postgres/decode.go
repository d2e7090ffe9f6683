package postgres

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

// RawRows are Rows of a driver that hands out what the server has sent, so that a row
// is decoded without the driver's scanning, which takes three times as long.
type RawRows interface {
	Rows

	// Formats returns 1 for each column that comes in its binary form, 0 for text.
	Formats() []int16

	// Raw returns the columns of a row, valid until the next one.
	Raw() [][]byte
}

// The columns of a read that have a binary form of their own: all but texts.
const readBinary = 1<<0 | 1<<1 | 1<<9 | 1<<10 | 1<<11 | 1<<13 | 1<<14 | 1<<15 | 1<<16 | 1<<17

const readColumns = 18

// decodable tells that a decoder can read columns of these formats.
func decodable(formats []int16) bool {
	if len(formats) != readColumns {
		return false
	}
	for i, format := range formats {
		if readBinary>>i&1 == 1 && format != 1 {
			return false
		}
	}
	return true
}

// decoder reads the rows of one page. Nothing that it returns shares memory with a
// whole page, or with anything large that outlives it.
type decoder struct {
	names map[string]string // texts that come again and again
	last  [4]string
}

// decode reads a row and tells whether it is the head.
func (d *decoder) decode(v [][]byte, row *store.Row) (head bool, err error) {
	if len(v) != readColumns {
		return false, fmt.Errorf("a row has %d columns, want %d", len(v), readColumns)
	}
	row.Position = number(v[0])
	if len(v[1]) == len(uuid.UUID{}) {
		row.ID = uuid.UUID(v[1]).String()
	}
	row.Topic, row.Key = d.again(0, v[2]), string(v[3])
	row.Tenant, row.Type, row.Version = d.name(v[4]), d.again(1, v[5]), d.again(2, v[6])
	row.ContentType = d.again(3, v[7])
	row.Headers = d.headers(v[8])
	if v[9] != nil {
		row.Payload = make([]byte, len(v[9]))
		copy(row.Payload, v[9])
	}
	row.CreatedAt = instant(v[10])
	row.Attempts, row.LastError = int(number(v[11])), string(v[12])
	if v[13] != nil {
		row.RetryIn = duration(number(v[13]))
	}
	row.Shard = uint8(number(v[14])) //nolint:gosec // 0 to 63, or the head
	row.DeliverAt, row.ExpiresAt = instant(v[15]), instant(v[16])
	if v[17] != nil {
		row.ExpiresIn = duration(number(v[17]))
	}
	return number(v[14]) == headShard, nil
}

// again returns a text that is most often that of the row before.
func (d *decoder) again(column int, b []byte) string {
	if string(b) != d.last[column] {
		d.last[column] = d.name(b)
	}
	return d.last[column]
}

// name returns the same string for the same text.
func (d *decoder) name(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	s, known := d.names[string(b)]
	if !known {
		s = string(b)
		d.names[s] = s
	}
	return s
}

// headers reads jsonb, which comes as its text, behind a number in its binary form.
func (d *decoder) headers(b []byte) map[string]string {
	if len(b) > 0 && b[0] == 1 {
		b = b[1:]
	}
	if len(b) <= len("{}") {
		return nil
	}
	text := string(b)
	if headers, ok := d.plain(text); ok {
		return headers
	}
	return parseHeaders(text)
}

// plain reads an object of texts without escapes as PostgreSQL writes it:
// {"a": "b", "c": "d"}. What is not so is another's to read.
func (d *decoder) plain(text string) (map[string]string, bool) {
	if strings.IndexByte(text, '\\') >= 0 {
		return nil, false
	}
	headers := make(map[string]string, strings.Count(text, `": "`))
	for rest := text[1:]; ; {
		name, behind, ok := strings.Cut(strings.TrimPrefix(rest, `"`), `": "`)
		value, next, closed := strings.Cut(behind, `"`)
		if !ok || !closed || rest[0] != '"' || strings.IndexByte(name, '"') >= 0 {
			return nil, false
		}
		headers[d.name([]byte(name))] = value
		switch {
		case next == "}":
			return headers, true
		case strings.HasPrefix(next, `, "`):
			rest = next[len(`, `):]
		default:
			return nil, false
		}
	}
}

// number reads an integer of any size; 0 for NULL.
func number(b []byte) int64 {
	switch len(b) {
	case 8:
		return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // two's complement
	case 4:
		return int64(int32(binary.BigEndian.Uint32(b))) //nolint:gosec // so
	case 2:
		return int64(int16(binary.BigEndian.Uint16(b))) //nolint:gosec // so
	}
	return 0
}

// since2000 is what PostgreSQL counts microseconds from.
var since2000 = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// instant reads a timestamptz; the zero Time for NULL, and for infinity.
func instant(b []byte) time.Time {
	micros := number(b)
	if b == nil || micros == math.MaxInt64 || micros == math.MinInt64 {
		return time.Time{}
	}
	return time.UnixMicro(micros + since2000).UTC()
}
