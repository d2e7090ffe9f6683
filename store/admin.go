package store

import (
	"context"
	"time"
)

// Admin is how people look at a store and mend it: the part of a store that
// package admin and the program use. All methods are safe for concurrent use, also
// while relays run, see all routes, and use the database's clock. Package
// storetest checks what is said here.
type Admin interface {
	// List returns messages of one state, by Place ascending.
	List(ctx context.Context, q Query) ([]Stored, error)

	// Redrive makes dead letters pending again, with their ids and positions and
	// no attempts counted, and returns how many. With one of a parked key go all
	// of that key (and route), so that it is parked no longer; ExpiresAt is
	// cleared where it has passed. Each call is one transaction. The leases of
	// the shards get new tokens in it, so that their owners read them from the
	// start: what is redriven of a parked key is sent before what is behind it in
	// the order; behind any other, its successors go on meanwhile.
	Redrive(ctx context.Context, places []int64) (int, error)

	// Discard deletes dead letters and returns how many. When the last one of a
	// parked key goes, the key is parked no longer; leases get new tokens as with
	// Redrive.
	Discard(ctx context.Context, places []int64) (int, error)

	// Retry makes pending messages due that wait for another attempt or are
	// blocked, with no attempts counted, and returns how many. Leases get new
	// tokens as with Redrive.
	Retry(ctx context.Context, refs []Ref) (int, error)

	// Withdraw takes one step towards deleting the messages of an id, which are
	// yet to be sent, and says where that stands. who is the caller's own name for
	// the undertaking. After [Asked] it is to be called again, until it answers
	// otherwise; then LetGo, also if it is given up.
	Withdraw(ctx context.Context, id, who string) (Withdrawal, error)

	// LetGo gives up the shards that Withdraw has asked for under that name.
	LetGo(ctx context.Context, who string) error

	// Pause holds messages back until Resume; relays follow within a fifth of
	// their LeaseTTL. It reports whether that was new; Resume, whether there was
	// such a pause.
	Pause(ctx context.Context, p Pause) (bool, error)
	Resume(ctx context.Context, p Pause) (bool, error)

	// Pauses returns all, in no order.
	Pauses(ctx context.Context) ([]Pause, error)

	// PurgeSent deletes up to limit messages from the history that were sent
	// longer than age ago, the oldest first, and returns how many; of several
	// calls at once one works, and the others return 0. CountSent returns how many
	// it would delete without a limit. On PostgreSQL history goes by partitions,
	// each a day: PurgeSent drops those of which all is old enough, whatever limit
	// says, and with an age of a day or more deletes nothing from the others.
	PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error)
	CountSent(ctx context.Context, age time.Duration) (int, error)

	// Stats counts.
	Stats(ctx context.Context) (Stats, error)
}

// State is where a message stands.
type State string

// States.
const (
	Pending   State = "pending"   // to be sent, perhaps waiting for another attempt
	Scheduled State = "scheduled" // not due yet
	Dead      State = "dead"      // a dead letter
	Sent      State = "sent"      // in the history
)

// Query asks for messages.
type Query struct {
	State  State    // required
	After  int64    // only with a Place greater than this
	Limit  int      // at least 1
	IDs    []string // only with one of these ids, if not empty
	Tenant *string  // only of this tenant
	Key    *string  // only of this key
	Route  *string  // only of this route
	Reason Reason   // only dead for this reason, if not empty

	// Waiting limits pending messages to those that were refused, expired ones
	// apart: with RetryIn greater than zero.
	Waiting bool

	// NoPayload leaves payloads out.
	NoPayload bool
}

// Stored is a message with what is known of it beside.
type Stored struct {
	Row    // RetryIn and ExpiresIn are set for pending messages only
	State  State
	Place  int64     // orders within a state: of pending messages the position
	Reason Reason    // of a dead letter
	Parked bool      // of a dead letter: its key is parked
	At     time.Time // when it became a dead letter, or was sent; in UTC
}

// Withdrawal says where withdrawing a message stands.
type Withdrawal string

// Withdrawals.
const (
	// Withdrawn: the message is deleted, and no relay has sent it. What was sent
	// in a transaction that was rolled back, nobody knows of; and of a message that
	// took several routes, a copy that was sent is gone.
	Withdrawn Withdrawal = "withdrawn"

	// Asked: a relay has the message's shard and was asked to give it back, or
	// somebody is at the message just now.
	Asked Withdrawal = "asked"

	// TooLate: the message was sent, or may have been.
	TooLate Withdrawal = "too late"

	// IsDead: the message is a dead letter, to be discarded as such.
	IsDead Withdrawal = "dead"

	// Absent: there is no such message any more, or there never was.
	Absent Withdrawal = "absent"
)

// Stats are counts over the whole outbox.
type Stats struct {
	Pending    int64         `json:"pending"`     // to be sent now or waiting
	Waiting    int64         `json:"waiting"`     // of these: refused, waiting for another attempt
	Blocked    int64         `json:"blocked"`     // of these: blocked messages, each at the head of its key
	Scheduled  int64         `json:"scheduled"`   // not due yet
	Dead       int64         `json:"dead"`        // dead letters
	ParkedKeys int64         `json:"parked_keys"` // keys with dead letters that their successors join
	Kept       int64         `json:"kept"`        // in the history; PostgreSQL's estimate there
	Oldest     time.Duration `json:"-"`           // age of the oldest pending message, zero if there is none; of one that was scheduled since it was due
	OldestDead time.Duration `json:"-"`           // age of the oldest dead letter
	Routes     []RouteStats  `json:"routes"`      // those with pending messages, by name
	Relays     []RelayInfo   `json:"relays"`      // alive, by name
	Pauses     []Pause       `json:"pauses"`
}

// RouteStats are counts of one route.
type RouteStats struct {
	Route   string        `json:"route"`
	Pending int64         `json:"pending"`
	Oldest  time.Duration `json:"-"`
}

// RelayInfo is a relay that is alive.
type RelayInfo struct {
	ID     string        `json:"id"`
	Name   string        `json:"name"`
	Route  string        `json:"route"`
	Shards int           `json:"shards"`
	Rate   float64       `json:"rate"` // messages a second, of late
	Since  time.Time     `json:"since"`
	Left   time.Duration `json:"-"` // until its leases end
}
