package sqlstore

import (
	"context"

	"github.com/outbox-go/outbox/store/track"
)

var _ track.Tracker = (*Store)(nil)

// Track has a table publish what is written to it, by triggers; see
// [track.Tracker]. On SQLite it waits for the write lock. A table that is dropped there
// and made again, as many migration tools do to change a column, has lost its
// triggers and is to be tracked again.
func (s *Store) Track(ctx context.Context, table string, c *track.Config) error {
	return s.backend.Track(ctx, table, c)
}

// TrackSQL returns the SQL by which Track would work on the table as it is now.
func (s *Store) TrackSQL(ctx context.Context, table string, c *track.Config) (string, error) {
	return s.backend.TrackSQL(ctx, table, c)
}

// Untrack ends that a table publishes, or returns [track.ErrNotTracked].
func (s *Store) Untrack(ctx context.Context, table string) error {
	return s.backend.Untrack(ctx, table)
}

// UntrackSQL returns the SQL by which Untrack would work.
func (s *Store) UntrackSQL(ctx context.Context, table string) (string, error) {
	return s.backend.UntrackSQL(ctx, table)
}

// Tracked returns the tables that publish into this outbox, all or those that are
// named, and what has changed about them since they were tracked.
func (s *Store) Tracked(ctx context.Context, tables ...string) ([]track.Table, error) {
	return s.backend.Tracked(ctx, tables...)
}
