module github.com/outbox-go/outbox/broker/rabbitmq

go 1.25.0

require github.com/outbox-go/outbox v0.0.0

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/rabbitmq/amqp091-go v1.16.0
)

replace github.com/outbox-go/outbox => ../..
