module github.com/outbox-go/outbox/acceptance

go 1.25.0

require github.com/outbox-go/outbox v0.0.0

replace github.com/outbox-go/outbox => ..

replace github.com/outbox-go/outbox/store/pgxstore => ../store/pgxstore

replace github.com/outbox-go/outbox/store/sqlstore => ../store/sqlstore

replace github.com/outbox-go/outbox/broker/rabbitmq => ../broker/rabbitmq

replace github.com/outbox-go/outbox/broker/natsjs => ../broker/natsjs

replace github.com/outbox-go/outbox/cmd/outbox => ../cmd/outbox
