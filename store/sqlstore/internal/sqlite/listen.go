package sqlite

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"time"
)

// How long a listener waits between two looks for commits that nobody told it of:
// lookSoon after one that found something, a little longer after each that found
// nothing, up to lookLate. A look takes some 75 microseconds, and waking up for it
// more than that.
const (
	lookSoon   = 10 * time.Millisecond
	lookLonger = time.Millisecond
	lookLate   = 40 * time.Millisecond
	lookAgain  = 500 * time.Millisecond // after one that failed
)

// ears are the listeners of this process. They are entered while they listen
// only, so that a database that was closed is not kept.
var ears struct {
	mu   sync.Mutex
	byDB map[*sql.DB][]chan struct{}
}

// Wake tells the listeners on this *sql.DB.
func (s *Store) Wake() {
	ears.mu.Lock()
	defer ears.mu.Unlock()
	for _, ear := range ears.byDB[s.db] {
		select {
		case ear <- struct{}{}:
		default: // it holds a call already
		}
	}
}

func addEar(db *sql.DB) (ear chan struct{}, remove func()) {
	ear = make(chan struct{}, 1)
	ears.mu.Lock()
	defer ears.mu.Unlock()
	if ears.byDB == nil {
		ears.byDB = map[*sql.DB][]chan struct{}{}
	}
	ears.byDB[db] = append(ears.byDB[db], ear)
	return ear, func() {
		ears.mu.Lock()
		defer ears.mu.Unlock()
		left := slices.DeleteFunc(ears.byDB[db], func(other chan struct{}) bool { return other == ear })
		if ears.byDB[db] = left; len(left) == 0 {
			delete(ears.byDB, db)
		}
	}
}

// Listen calls wake when it is told by Wake, and when it sees that the last
// position has changed: by another process, or by a transaction that was
// committed without a Wake.
func (s *Store) Listen(ctx context.Context, wake func()) error {
	ear, remove := addEar(s.db)
	defer remove()
	l := &looker{store: s, pause: lookSoon}
	defer l.close()
	l.look(ctx)
	wake() // whatever was committed until the first look
	timer := time.NewTimer(l.pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ear:
			wake()
		case <-timer.C:
			if l.look(ctx) {
				wake()
			}
			timer.Reset(l.pause)
		}
	}
}

// looker compares the last position with the one that it saw before. It keeps a
// connection and a prepared statement, unless the pool has no connection to spare.
type looker struct {
	store *Store
	conn  *sql.Conn
	stmt  *sql.Stmt
	last  int64
	pause time.Duration // until the next look
}

// look reports whether there is something new, and says when to look again. After
// an error, such as a table that is not there yet, the next success counts as new.
func (l *looker) look(ctx context.Context) bool {
	position, err := l.position(ctx)
	if err != nil {
		l.last, l.pause = -1, lookAgain
		l.close()
		return false
	}
	if position != l.last {
		l.last, l.pause = position, lookSoon
		return true
	}
	l.pause = min(l.pause+lookLonger, lookLate)
	return false
}

func (l *looker) position(ctx context.Context) (position int64, err error) {
	db, text := l.store.db, l.store.text.sequence
	if db.Stats().MaxOpenConnections == 1 {
		err = db.QueryRowContext(ctx, text).Scan(&position)
		return position, err
	}
	if l.conn == nil {
		if l.conn, err = db.Conn(ctx); err != nil {
			return 0, err
		}
	}
	if l.stmt == nil {
		if l.stmt, err = l.conn.PrepareContext(ctx, text); err != nil {
			return 0, err
		}
	}
	// A driver watches a context that can end by a goroutine, which costs more than
	// the query.
	err = l.stmt.QueryRowContext(context.WithoutCancel(ctx)).Scan(&position)
	return position, err
}

func (l *looker) close() {
	if l.stmt != nil {
		_ = l.stmt.Close()
	}
	if l.conn != nil {
		_ = l.conn.Close()
	}
	l.stmt, l.conn = nil, nil
}
