module github.com/outbox-go/outbox/broker/webhook

go 1.25.0

require (
	github.com/outbox-go/outbox v0.0.0
	github.com/standard-webhooks/standard-webhooks/libraries v0.0.1
	go.uber.org/goleak v1.3.0
)

require github.com/google/uuid v1.6.0

replace github.com/outbox-go/outbox => ../..
