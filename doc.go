// Package outbox emits messages inside the business transaction, so that a
// change in the database and the message that tells of it are one: both happen
// or neither does. A relay (package relay) brings the messages to a broker
// afterwards and removes each one only when the broker has confirmed it; a
// worker (package worker) hands them, typed, to handlers.
//
// This package is the vocabulary that all parts share: [Event], [Message],
// [Outbox], codecs, topics, errors, and the small interfaces that a store, a
// publisher and a subscriber satisfy. It depends on the standard library and a
// UUID package alone; databases and brokers are modules of their own below
// store/ and broker/.
//
//	ob := outbox.New(pgxstore.New(pool, nil))
//	err := ob.InTx(ctx, func(tx pgx.Tx) error {
//		if _, err := tx.Exec(ctx, `INSERT INTO users (id) VALUES ($1)`, user.ID); err != nil {
//			return err
//		}
//		return ob.Emit(ctx, tx, outbox.Event{Topic: "user.created", Key: user.ID, Payload: user})
//	})
package outbox
