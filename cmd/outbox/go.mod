module github.com/outbox-go/outbox/cmd/outbox

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/outbox-go/outbox v0.0.0
	github.com/outbox-go/outbox/broker/natsjs v0.0.0
	github.com/outbox-go/outbox/broker/rabbitmq v0.0.0
	github.com/outbox-go/outbox/store/pgxstore v0.0.0
	github.com/outbox-go/outbox/store/sqlstore v0.0.0
	github.com/outbox-go/outbox/telemetry/prometheus v0.0.0
	github.com/prometheus/client_golang v1.25.0
	github.com/spf13/cobra v1.10.2
	github.com/spf13/pflag v1.0.9
	github.com/youmark/pkcs8 v0.0.0-20240726163527-a2c0da244d78
	go.yaml.in/yaml/v3 v3.0.6
	golang.org/x/term v0.47.0
	modernc.org/sqlite v1.58.0
)

require (
	github.com/antithesishq/antithesis-sdk-go v0.8.0-default-no-op // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/minio/highwayhash v1.0.4 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/nats-io/jwt/v2 v2.8.2 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

require (
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/google/uuid v1.6.0
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
	github.com/nats-io/nats-server/v2 v2.15.2
	github.com/nats-io/nats.go v1.55.0
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/ncruces/go-strftime v1.0.0 // indirect
	github.com/outbox-go/outbox/broker/stomp v0.0.0
	github.com/outbox-go/outbox/broker/webhook v0.0.0
	github.com/rabbitmq/amqp091-go v1.16.0
	github.com/remyoudompheng/bigfft v0.0.0-20230129092748-24d4a6f8daec // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	modernc.org/libc v1.75.6 // indirect
	modernc.org/mathutil v1.7.1 // indirect
	modernc.org/memory v1.12.1 // indirect
)

replace github.com/outbox-go/outbox => ../..

replace github.com/outbox-go/outbox/store/pgxstore => ../../store/pgxstore

replace github.com/outbox-go/outbox/store/sqlstore => ../../store/sqlstore

replace github.com/outbox-go/outbox/broker/rabbitmq => ../../broker/rabbitmq

replace github.com/outbox-go/outbox/broker/natsjs => ../../broker/natsjs

replace github.com/outbox-go/outbox/telemetry/prometheus => ../../telemetry/prometheus

replace github.com/outbox-go/outbox/broker/stomp => ../../broker/stomp

replace github.com/outbox-go/outbox/broker/webhook => ../../broker/webhook
