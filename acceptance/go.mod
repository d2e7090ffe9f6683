module github.com/outbox-go/outbox/acceptance

go 1.25.0

require (
	github.com/jackc/pgx/v5 v5.12.0
	github.com/outbox-go/outbox v0.0.0
	github.com/outbox-go/outbox/broker/rabbitmq v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/store/pgxstore v0.0.0-00010101000000-000000000000
)

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)

replace github.com/outbox-go/outbox => ..

replace github.com/outbox-go/outbox/store/pgxstore => ../store/pgxstore

replace github.com/outbox-go/outbox/store/sqlstore => ../store/sqlstore

replace github.com/outbox-go/outbox/broker/rabbitmq => ../broker/rabbitmq

replace github.com/outbox-go/outbox/broker/natsjs => ../broker/natsjs

replace github.com/outbox-go/outbox/cmd/outbox => ../cmd/outbox
