package msgpack_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/broker/membroker"
	"github.com/outbox-go/outbox/codec/msgpack"
	"github.com/outbox-go/outbox/store/memstore"
	"github.com/outbox-go/outbox/worker"
)

type User struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
}

// An event with the codec's content type is encoded by it.
func Example() {
	ob := outbox.New(memstore.New(nil), outbox.WithCodecs(msgpack.Codec))
	msgs, err := ob.Prepare(context.Background(), outbox.Event{
		Topic: "user.created", ContentType: msgpack.ContentType, Payload: User{ID: 7, Name: "Ada"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s: %x\n", msgs[0].ContentType, msgs[0].Payload)

	var got User
	if err := msgpack.Codec.Decode(msgs[0].Payload, &got); err != nil {
		fmt.Println(err)
	}
	fmt.Println(got.ID, got.Name)
	// Output:
	// application/msgpack: 82a2696407a46e616d65a3416461
	// 7 Ada
}

// A worker decodes by content type. Senders may use an older name of it.
func ExampleCodecFor() {
	broker := membroker.New()
	w := worker.New(broker.Subscriber(), &worker.Config{
		Queue:  "billing",
		Codecs: []outbox.Codec{msgpack.Codec, msgpack.CodecFor(msgpack.ContentTypeX)},
		Logger: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(context.Background())
	worker.Handle(w, "user.*", func(_ context.Context, d *worker.Delivery[User]) error {
		fmt.Println(d.Topic, d.Payload.Name)
		stop()
		return nil
	})
	go func() {
		<-w.Ready()
		m := outbox.Message{Topic: "user.created", ContentType: "application/x-msgpack", Payload: []byte("\x81\xa4name\xa3Ada")}
		broker.Publisher().Publish(ctx, &m, func(error) {})
	}()
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	// Output: user.created Ada
}
