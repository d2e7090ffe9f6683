package pgxstore

import "github.com/outbox-go/outbox/store/track"

// What a store does as one is said there.
var _ track.Tracker = (*Store)(nil)
