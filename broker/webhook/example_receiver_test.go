package webhook_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/outbox-go/outbox/broker/webhook"
	"github.com/outbox-go/outbox/worker"
)

// A service that gets events by HTTP. With worker.HandleTx in the place of
// worker.Handle, what comes twice has its effects once.
func ExampleReceiver() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	receiver, err := webhook.NewReceiver(&webhook.ReceiverConfig{Secrets: []string{os.Getenv("WEBHOOK_SECRET")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	w := worker.New(receiver, &worker.Config{Queue: "mail"})
	worker.Handle(w, "user.created", func(_ context.Context, d *worker.Delivery[struct{ Email string }]) error {
		fmt.Println("welcome,", d.Payload.Email)
		return nil
	})

	mux := http.NewServeMux()
	mux.Handle("/events", receiver)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			fmt.Println(err)
			stop()
		}
	}()
	if err := w.Run(ctx); err != nil {
		fmt.Println(err)
	}
	if err := server.Shutdown(context.Background()); err != nil {
		fmt.Println(err)
	}
}
