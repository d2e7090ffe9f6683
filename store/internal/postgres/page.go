package postgres

import (
	"errors"

	"github.com/google/uuid"

	"github.com/outbox-go/outbox/store"
)

// pageReader collects the rows of one read.
type pageReader struct {
	request     store.ReadRequest
	route       string
	within      bool
	snapshot    string // "" until it has come
	incarnation *string
	rows        []store.Row
	bytes       int
	cut         bool // ended by MaxBytes
}

func (p *pageReader) scan(rows Rows) error {
	next := p.scanner(rows)
	for rows.Next() {
		n := len(p.rows)
		p.rows = append(p.rows, store.Row{})
		row := &p.rows[n]
		head, err := next(row)
		if err != nil {
			return err
		}
		if head {
			p.noteHead(row)
			p.rows = p.rows[:n]
			continue
		}
		row.Route = p.route
		size := row.Size()
		if p.request.MaxBytes > 0 && n > 0 && p.bytes+size > p.request.MaxBytes {
			p.rows[n] = store.Row{} // its payload would stay as long as the page
			p.rows, p.cut = p.rows[:n], true
			break
		}
		p.bytes += size
	}
	rows.Close()
	if p.cut {
		return nil
	}
	return rows.Err()
}

// noteHead takes what the first row says.
func (p *pageReader) noteHead(row *store.Row) {
	p.snapshot = row.Topic
	if id := row.ID; id != "" {
		p.incarnation = &id
	}
}

// scanner returns a function that reads a row, and tells whether it is the head.
func (p *pageReader) scanner(rows Rows) func(*store.Row) (head bool, err error) {
	if raw, ok := rows.(RawRows); ok && decodable(raw.Formats()) {
		d := decoder{names: map[string]string{}}
		return func(row *store.Row) (bool, error) { return d.decode(raw.Raw(), row) }
	}
	var (
		m      message
		id     *uuid.UUID
		timing timing
	)
	dest := m.dest(&id, &timing)
	return func(row *store.Row) (bool, error) {
		m = message{}
		if err := rows.Scan(dest...); err != nil {
			return false, err
		}
		*row = m.finish(id, &timing)
		return m.shard == headShard, nil
	}
}

// page turns what was collected into a page with the cursor behind it.
func (p *pageReader) page(seen, epoch snapshot) (store.Page, error) {
	if p.snapshot == "" {
		return store.Page{}, errors.New("the snapshot is missing from the result")
	}
	if p.incarnation == nil && p.within {
		p.incarnation = new(string)
	}
	if p.incarnation == nil || (seen.text != "" && seen.incarnation != *p.incarnation) ||
		(epoch.text != "" && epoch.incarnation != *p.incarnation) {
		return store.Page{}, store.ErrCursorVoid
	}
	now, err := parseSnapshot(*p.incarnation, p.snapshot)
	if err != nil {
		return store.Page{}, err
	}
	if seen.xmax > now.xmax {
		return store.Page{}, store.ErrCursorVoid
	}
	page := store.Page{Rows: p.rows, Horizon: now.xmin, Next: now.xmax, More: true}
	if epoch.text == "" {
		epoch = now
	}
	if p.cut || len(p.rows) == p.request.Limit {
		last := p.rows[len(p.rows)-1].Position
		page.Cursor = store.Cursor{Seen: seen.String(), Epoch: epoch.String(), After: last}
		return page, nil
	}
	// All of the epoch is read; one that was older than this statement has left
	// what came since.
	page.Cursor = store.Cursor{Seen: epoch.String()}
	page.More = p.request.Cursor.Epoch != ""
	return page, nil
}
