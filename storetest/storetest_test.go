package storetest_test

import (
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/storetest"
)

// Who passes the suite can be drained: both interfaces have the same methods.
var (
	_ relay.Store       = storetest.Store[any](nil)
	_ storetest.Drained = relay.Store(nil)
)
