module github.com/outbox-go/outbox/acceptance

go 1.26.0

require (
	github.com/google/uuid v1.6.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/nats-io/nats-server/v2 v2.15.2
	github.com/nats-io/nats.go v1.55.0
	github.com/outbox-go/outbox v0.0.0
	github.com/outbox-go/outbox/broker/natsjs v0.0.0
	github.com/outbox-go/outbox/broker/rabbitmq v0.0.0
	github.com/outbox-go/outbox/codec/msgpack v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/codec/protobuf v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/store/pgxstore v0.0.0
	github.com/outbox-go/outbox/store/sqlstore v0.0.0
	github.com/rabbitmq/amqp091-go v1.16.0
	github.com/standard-webhooks/standard-webhooks/libraries v0.0.1
	github.com/uptrace/bun v1.3.0
	github.com/uptrace/bun/dialect/pgdialect v1.3.0
	google.golang.org/protobuf v1.36.12
	gorm.io/driver/postgres v1.6.3
	gorm.io/gorm v1.31.2
	modernc.org/sqlite v1.58.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/jinzhu/inflection v1.0.0 // indirect
	github.com/jinzhu/now v1.1.5 // indirect
	github.com/puzpuzpuz/xsync/v3 v3.5.1 // indirect
	github.com/tmthrgd/go-hex v0.0.0-20190904060850-447a3041c3bc // indirect
)

require (
	github.com/cloudevents/sdk-go/v2 v2.16.2
	github.com/json-iterator/go v1.1.12 // indirect
	github.com/modern-go/concurrent v0.0.0-20180306012644-bacd9c7ef1dd // indirect
	github.com/modern-go/reflect2 v1.0.2 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap v1.27.0 // indirect
)

require (
	github.com/antithesishq/antithesis-sdk-go v0.8.0-default-no-op // indirect
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
	github.com/minio/highwayhash v1.0.4 // indirect
	github.com/nats-io/jwt/v2 v2.8.2 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/ncruces/go-strftime v1.0.0 // indirect
	github.com/outbox-go/outbox/broker/stomp v0.0.0
	github.com/outbox-go/outbox/broker/webhook v0.0.0
	github.com/outbox-go/outbox/model/bun v0.0.0
	github.com/outbox-go/outbox/model/gorm v0.0.0
	github.com/remyoudompheng/bigfft v0.0.0-20230129092748-24d4a6f8daec // indirect
	github.com/vmihailenco/msgpack/v5 v5.4.1 // indirect
	github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	modernc.org/libc v1.75.6 // indirect
	modernc.org/mathutil v1.7.1 // indirect
	modernc.org/memory v1.12.1 // indirect
)

replace github.com/outbox-go/outbox => ..

replace github.com/outbox-go/outbox/store/pgxstore => ../store/pgxstore

replace github.com/outbox-go/outbox/store/sqlstore => ../store/sqlstore

replace github.com/outbox-go/outbox/broker/rabbitmq => ../broker/rabbitmq

replace github.com/outbox-go/outbox/broker/natsjs => ../broker/natsjs

replace github.com/outbox-go/outbox/cmd/outbox => ../cmd/outbox

replace github.com/outbox-go/outbox/codec/msgpack => ../codec/msgpack

replace github.com/outbox-go/outbox/codec/protobuf => ../codec/protobuf

replace github.com/outbox-go/outbox/broker/stomp => ../broker/stomp

replace github.com/outbox-go/outbox/broker/webhook => ../broker/webhook

replace github.com/outbox-go/outbox/model/gorm => ../model/gorm

replace github.com/outbox-go/outbox/model/bun => ../model/bun
