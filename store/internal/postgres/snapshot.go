package postgres

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/outbox-go/outbox/store"
)

// snapshot is a pg_snapshot and the incarnation of the server that took it. Its
// text, which a Cursor holds, is "incarnation|xmin:xmax:xip,...".
type snapshot struct {
	incarnation string
	text        string // as PostgreSQL writes it
	xmin, xmax  uint64
}

func parseSnapshot(incarnation, text string) (snapshot, error) {
	s := snapshot{incarnation: incarnation, text: text}
	parts := strings.SplitN(text, ":", 3)
	if len(parts) != 3 {
		return s, fmt.Errorf("snapshot %q is malformed", text)
	}
	var err error
	if s.xmin, err = strconv.ParseUint(parts[0], 10, 64); err != nil {
		return s, fmt.Errorf("snapshot %q is malformed: %w", text, err)
	}
	if s.xmax, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return s, fmt.Errorf("snapshot %q is malformed: %w", text, err)
	}
	return s, nil
}

// openSnapshot reads what String wrote; "" is the zero snapshot, before all.
func openSnapshot(cursor string) (snapshot, error) {
	if cursor == "" {
		return snapshot{}, nil
	}
	incarnation, text, _ := strings.Cut(cursor, "|")
	return parseSnapshot(incarnation, text)
}

func (s snapshot) String() string {
	if s.text == "" {
		return ""
	}
	return s.incarnation + "|" + s.text
}

// running returns the transactions that were running, as an array literal.
func (s snapshot) running() string {
	return "{" + s.text[strings.LastIndexByte(s.text, ':')+1:] + "}"
}

// sees reports whether what a transaction that has committed by now wrote is in the
// snapshot.
func (s snapshot) sees(txid uint64) bool {
	if txid >= s.xmax {
		return false
	}
	number := strconv.FormatUint(txid, 10)
	for running := range strings.SplitSeq(s.text[strings.LastIndexByte(s.text, ':')+1:], ",") {
		if running == number {
			return false
		}
	}
	return true
}

// Saw reports whether a reader that stands at a cursor is past what the transaction of
// that id has committed.
func Saw(c store.Cursor, txid string) (bool, error) {
	seen, err := openSnapshot(c.Seen)
	if err != nil || seen.text == "" {
		return false, err
	}
	id, err := strconv.ParseUint(txid, 10, 64)
	if err != nil {
		return false, fmt.Errorf("transaction id: %w", err)
	}
	return seen.sees(id), nil
}
