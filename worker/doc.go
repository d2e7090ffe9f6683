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
// Delivery is at least once: after a crash a message may come again. With
// [HandleTx] the handler's effects in a database happen once all the same; with
// [Handle] a handler must bear to see a message a second time.
//
// # Outcome
//
// The handler's error decides what becomes of a message:
//   - nil acknowledges it.
//   - Any other error, a panic among them, lets it be tried again after the delays
//     of Config.Retries, and in the end sends it to the queue's dead letters. While
//     it waits it is at the broker, its handler is free, and other messages go on,
//     those of its key included unless Config.InOrder asks for the contrary.
//   - [Retry] and [RetryAfter] ask for another attempt even where retries are off;
//     [Abort] refuses one. They are found in wrapped and joined errors.
//   - What no handler matches and what cannot be decoded or is invalid goes to the
//     dead letters at once: see [ErrUndeliverable].
//
// A message keeps its id, topic, payload and headers on all its ways. Dead letters
// carry the reason, the attempts, their times and the handler; Config.DeadLetters
// lets a worker handle them. Being given back, when a worker stops or its
// connection breaks, is no attempt.
//
// # Order
//
// Messages of one tenant and key are handled one at a time, in the order of their
// delivery to this worker. Other keys, and messages without a key, go on beside
// them, as many as Config.Concurrency. Between several workers on one queue, and
// between a failed message and its successors, nothing is ordered, unless
// Config.InOrder asks for it.
//
// # Stopping
//
// When the context of Run ends, the worker takes no more messages, gives back
// those that no handler has begun, and waits for the running handlers, which do
// not see that context end. After Config.ShutdownTimeout their context is
// cancelled as well; what they have not handled then goes back to the queue.
package worker
