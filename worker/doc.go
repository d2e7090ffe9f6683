// Package worker hands the messages of a queue, decoded, to typed handlers.
//
//	w := worker.New(sub, &worker.Config{Queue: "billing"})
//	worker.Handle(w, "user.*", func(ctx context.Context, d *worker.Delivery[User]) error {
//		return billing.Open(ctx, d.Payload)
//	})
//	err := w.Run(ctx)
//
// # Delivery
//
// A message is acknowledged after its handler has returned nil. When the handler
// returns an error or panics, when the payload cannot be decoded or no handler's
// pattern matches the topic, the message is logged, held for Config.RetryDelay
// and given back to the queue, which delivers it again; the handler's place is
// free meanwhile. Delivery is at least once: a handler must bear to see a message
// a second time.
//
// # Order
//
// Messages of one tenant and key are handled one at a time, in the order of their
// delivery to this worker. Other keys, and messages without a key, go on beside
// them, as many as Config.Concurrency. While a failed message is held, its
// successors of the same key wait behind it; once it has been given back they go
// on, so that the failed message comes again after those that were delivered
// already. Between several workers on one queue nothing is ordered.
//
// # Stopping
//
// When the context of Run ends, the worker takes no more messages, gives back
// those that no handler has begun, and waits for the running handlers, which do
// not see that context end. After Config.ShutdownTimeout their context is
// cancelled as well; what they have not handled then goes back to the queue.
package worker
