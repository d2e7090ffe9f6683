// Package protobuf encodes payloads as Protocol Buffers, by
// google.golang.org/protobuf. Payloads are generated messages.
//
//	ob := outbox.New(store, outbox.WithCodecs(protobuf.Codec))
//	err := ob.Emit(ctx, tx, outbox.Event{Topic: "user.created", Type: "acme.User", ContentType: protobuf.ContentType, Payload: user})
//
//	w := worker.New(sub, &worker.Config{Queue: "billing", Codecs: []outbox.Codec{protobuf.Codec}})
//	worker.Handle(w, "user.*", func(ctx context.Context, d *worker.Delivery[*acmepb.User]) error { ... })
//
// The bytes do not name the message's type: put it into [outbox.Event.Type], or
// let the topic stand for it. A payload of another type often decodes without an
// error, into fields that mean nothing; strict decoding finds most of these.
//
// Equal messages are encoded to equal bytes by one build of a program; another
// build may encode them otherwise.
//
// Payloads may be hostile: messages nest at most 10,000 deep, and errors name
// fields and types but quote nothing of the payload.
package protobuf
