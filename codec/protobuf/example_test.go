package protobuf_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/codec/protobuf"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/worker"
)

// An event with the codec's content type is encoded by it. Payloads are messages
// of one's own; here one that the library brings.
func Example() {
	ob := outbox.New(memstore.New(nil), outbox.WithCodecs(protobuf.Codec))
	msgs, err := ob.Prepare(context.Background(), outbox.Event{
		Topic: "clock.struck", Type: "google.protobuf.Timestamp", ContentType: protobuf.ContentType,
		Payload: timestamppb.New(time.Unix(1_700_000_000, 0)),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %x\n", msgs[0].ContentType, msgs[0].Payload)

	var got *timestamppb.Timestamp
	if err := protobuf.Codec.Decode(msgs[0].Payload, &got); err != nil {
		fmt.Println(err)
	}
	fmt.Println(got.AsTime())
	// Output:
	// application/protobuf: 0880e2cfaa06
	// 2023-11-14 22:13:20 +0000 UTC
}

// A handler's payload is a pointer to the message's type. Senders may use an older
// name of the content type.
func ExampleCodecFor() {
	broker := membroker.New()
	w := worker.New(broker.Subscriber(), &worker.Config{
		Queue:  "calendar",
		Codecs: []outbox.Codec{protobuf.Codec, protobuf.CodecFor(protobuf.ContentTypeX)},
		Logger: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(context.Background())
	worker.Handle(w, "clock.*", func(_ context.Context, d *worker.Delivery[*timestamppb.Timestamp]) error {
		fmt.Println(d.Topic, d.Payload.AsTime())
		stop()
		return nil
	})
	go func() {
		<-w.Ready()
		m := outbox.Message{Topic: "clock.struck", ContentType: "application/x-protobuf", Payload: []byte("\x08\x80\xe2\xcf\xaa\x06")}
		broker.Publisher().Publish(ctx, &m, func(error) {})
	}()
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: clock.struck 2023-11-14 22:13:20 +0000 UTC
}
