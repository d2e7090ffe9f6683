package pgxstore

import "github.com/outbox-go/outbox/store/track"

// Track, TrackSQL, Untrack, UntrackSQL and Tracked are the core's.
var _ track.Tracker = (*Store)(nil)
