package msgpack

import (
	"errors"
	"io"
)

// reader reads what check has found to be whole. The library takes the body of
// an extension for a map where it wants a map, and would be out of step with
// what was checked from there on; it reads the code of a value by ReadByte and
// the body of an extension that it means to have by Read. So ReadByte does not
// enter a body.
type reader struct {
	data   []byte
	pos    int
	bodies []span // those that end behind pos, in their order
}

var errBody = errors.New("an extension does not fit")

func (r *reader) ReadByte() (byte, error) {
	if r.pos >= len(r.data) {
		return 0, io.EOF
	}
	for len(r.bodies) > 0 && r.bodies[0].end <= r.pos {
		r.bodies = r.bodies[1:]
	}
	if len(r.bodies) > 0 && r.bodies[0].start <= r.pos {
		return 0, errBody
	}
	c := r.data[r.pos]
	r.pos++
	return c, nil
}

// UnreadByte undoes the last ReadByte. It cannot lead back into a body, which
// ReadByte does not enter.
func (r *reader) UnreadByte() error {
	if r.pos == 0 {
		return errors.New("nothing was read")
	}
	r.pos--
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	if r.pos >= len(r.data) && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data[r.pos:])
	r.pos += n
	return n, nil
}
