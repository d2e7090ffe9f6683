// Package oteloutbox puts what becomes of a message into one OpenTelemetry trace:
// the transaction that emits it, the relay that publishes it, the worker that
// handles it, and what that one emits in turn.
//
//	// where events are emitted
//	ob := outbox.New(store, outbox.WithContextHeaders(oteloutbox.ContextHeaders(nil)))
//
//	// where they are published
//	hook := oteloutbox.NewHook("rabbitmq", nil)
//	r := relay.New(store, publisher, &relay.Config{Hooks: []relay.Hook{hook}})
//
//	// where they are handled
//	w := worker.New(subscriber, &worker.Config{
//		Queue:      "billing",
//		Middleware: []worker.Middleware{oteloutbox.Middleware("rabbitmq", nil)},
//	})
//
// # The spans
//
// A message carries the context of the span in which it was emitted: in the headers
// traceparent and tracestate of W3C Trace Context, unless another propagator is
// chosen. Of that span these are children:
//
//   - "publish <topic>", of the kind producer, by [Hook]: from when the relay sends
//     the message until the broker has answered, one for each attempt. What the
//     broker did not confirm is an error.
//   - "process <topic>", of the kind consumer, by [Middleware]: one for each attempt
//     to handle the message. It is in the handler's context, so that spans and events
//     of the handler are its children. The handler's error is recorded.
//
// The message is sent as it was emitted, so "process" is no child of "publish": the
// two stand beside each other, also when a message is sent or handled several times.
//
// They have the attributes of the semantic conventions for messaging that apply,
// and outbox.attempt, the number of the attempt from 1. Keys, tenants, headers and
// payloads are in none.
//
// # What it costs
//
// A message whose trace is not sampled, or that has none, has no "publish" span, and
// the relay looks at one header of it. Whether it has a "process" span is up to the
// sampler, to which a message without a trace is a new one.
package oteloutbox
