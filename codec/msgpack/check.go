package msgpack

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// maxDepth is how deep values may nest, as many as in encoding/json: the library
// recurses, and a stack that overflows ends the process.
const maxDepth = 10_000

// span is a range of bytes.
type span struct{ start, end int }

// check walks over data without decoding it. It returns the bodies of the
// extensions, and an error unless data is one whole MessagePack value: the
// library allocates what a length promises before it looks whether there is as
// much.
func check(data []byte) (bodies []span, err error) {
	var open []int64 // values still to come, by depth
	pos, left := 0, int64(1)
	for {
		for left == 0 && len(open) > 0 {
			left, open = open[len(open)-1], open[:len(open)-1]
		}
		if left == 0 {
			break
		}
		left--
		h, err := readHead(data, pos)
		if err != nil {
			return nil, err
		}
		if h.kind == kindExt {
			bodies = append(bodies, span{h.end - h.body, h.end})
		}
		pos = h.end
		if h.values > 0 {
			if len(open) >= maxDepth {
				return nil, fmt.Errorf("msgpack: values nest deeper than %d at byte %d", maxDepth, pos)
			}
			open = append(open, left)
			left = h.values
		}
	}
	if pos < len(data) {
		return nil, fmt.Errorf("msgpack: %d bytes follow the value, which ends at byte %d", len(data)-pos, pos)
	}
	return bodies, nil
}

// head is a value without those that it contains.
type head struct {
	kind   string
	start  int   // where its code is
	body   int   // bytes that belong to it: of a string, a number or an extension
	end    int   // where it ends
	values int64 // that it contains: a map's keys and values, an array's elements
}

// readHead reads the head of the value at pos.
func readHead(data []byte, pos int) (head, error) {
	if pos >= len(data) {
		return head{}, truncated(pos)
	}
	c := data[pos]
	form := formOf(c)
	if form.kind == kindInvalid {
		return head{}, fmt.Errorf("msgpack: byte %d begins no value", pos)
	}
	at := pos + 1
	if len(data)-at < form.length {
		return head{}, truncated(pos)
	}
	n := int64(form.fixed)
	switch form.length {
	case 1:
		n = int64(data[at])
	case 2:
		n = int64(binary.BigEndian.Uint16(data[at:]))
	case 4:
		n = int64(binary.BigEndian.Uint32(data[at:]))
	}
	at += form.length
	h := head{kind: form.kind, start: pos, end: at}
	switch form.kind {
	case kindArray:
		h.values = n
		return h, nil
	case kindMap:
		h.values = 2 * n
		return h, nil
	case kindExt:
		at++ // the extension's type
	}
	if n > int64(len(data)-at) {
		return head{}, truncated(pos)
	}
	h.body = int(n)
	h.end = at + h.body
	return h, nil
}

func truncated(pos int) error {
	return fmt.Errorf("msgpack: the data ends within the value at byte %d: %w", pos, io.ErrUnexpectedEOF)
}

// Kinds of values, as errors name them.
const (
	kindInvalid = "invalid"
	kindNil     = "nil"
	kindBool    = "a boolean"
	kindInt     = "an integer"
	kindFloat   = "a float"
	kindString  = "a string"
	kindBinary  = "binary data"
	kindArray   = "an array"
	kindMap     = "a map"
	kindExt     = "an extension"
)

// form tells what a code stands for: the number of bytes of the length that
// follows it, or, if there is none, the length itself.
type form struct {
	kind   string
	length int
	fixed  int
}

func kind(c byte) string { return formOf(c).kind }

func formOf(c byte) form {
	switch {
	case msgpcode.IsFixedNum(c):
		return form{kind: kindInt}
	case msgpcode.IsFixedMap(c):
		return form{kind: kindMap, fixed: int(c & msgpcode.FixedMapMask)}
	case msgpcode.IsFixedArray(c):
		return form{kind: kindArray, fixed: int(c & msgpcode.FixedArrayMask)}
	case msgpcode.IsFixedString(c):
		return form{kind: kindString, fixed: int(c & msgpcode.FixedStrMask)}
	}
	return forms[c] // a code that is not in it is invalid
}

var forms = func() (f [256]form) {
	for i := range f {
		f[i] = form{kind: kindInvalid}
	}
	f[msgpcode.Nil] = form{kind: kindNil}
	f[msgpcode.False] = form{kind: kindBool}
	f[msgpcode.True] = form{kind: kindBool}
	f[msgpcode.Float] = form{kind: kindFloat, fixed: 4}
	f[msgpcode.Double] = form{kind: kindFloat, fixed: 8}
	for i, size := range []int{1, 2, 4, 8} {
		f[int(msgpcode.Uint8)+i] = form{kind: kindInt, fixed: size}
		f[int(msgpcode.Int8)+i] = form{kind: kindInt, fixed: size}
	}
	for i, size := range []int{1, 2, 4} {
		f[int(msgpcode.Bin8)+i] = form{kind: kindBinary, length: size}
		f[int(msgpcode.Str8)+i] = form{kind: kindString, length: size}
		f[int(msgpcode.Ext8)+i] = form{kind: kindExt, length: size}
	}
	for i, size := range []int{2, 4} {
		f[int(msgpcode.Array16)+i] = form{kind: kindArray, length: size}
		f[int(msgpcode.Map16)+i] = form{kind: kindMap, length: size}
	}
	for i, size := range []int{1, 2, 4, 8, 16} {
		f[int(msgpcode.FixExt1)+i] = form{kind: kindExt, fixed: size}
	}
	return f
}()
