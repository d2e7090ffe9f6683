module github.com/outbox-go/outbox/broker/natsjs

go 1.25.0

require github.com/outbox-go/outbox v0.0.0

replace github.com/outbox-go/outbox => ../..
