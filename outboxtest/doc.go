// Package outboxtest helps to test code that emits and code that handles
// messages, with a database or without one, and without a broker.
//
//	rec := outboxtest.NewRecorder[*sql.Tx](nil)
//	service := NewService(outbox.New(rec))
//	// ... call the service, then:
//	m := outboxtest.RequireEmitted(t, rec.All(), outboxtest.Want{Topic: "user.created", Key: "7"})
//
// A [Recorder] takes the place of a store and keeps what is emitted, or stands
// before the real store and records what passes. [RequireEmitted] and
// [RequireNotEmitted] look for a message. [Deliver] runs a worker's handler for
// one message and tells what became of it. A [Clock] is set by hand.
package outboxtest
