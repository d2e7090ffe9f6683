module github.com/outbox-go/outbox/examples

go 1.25.0

replace (
	github.com/outbox-go/outbox => ..
	github.com/outbox-go/outbox/broker/rabbitmq => ../broker/rabbitmq
	github.com/outbox-go/outbox/broker/stomp => ../broker/stomp
	github.com/outbox-go/outbox/broker/webhook => ../broker/webhook
	github.com/outbox-go/outbox/model/gorm => ../model/gorm
	github.com/outbox-go/outbox/store/pgxstore => ../store/pgxstore
	github.com/outbox-go/outbox/store/sqlstore => ../store/sqlstore
)

require (
	github.com/jackc/pgx/v5 v5.12.0
	github.com/outbox-go/outbox v0.0.0
	github.com/outbox-go/outbox/broker/rabbitmq v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/broker/stomp v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/broker/webhook v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/model/gorm v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/store/pgxstore v0.0.0-00010101000000-000000000000
	github.com/outbox-go/outbox/store/sqlstore v0.0.0
	gorm.io/driver/postgres v1.6.3
	gorm.io/gorm v1.31.2
	modernc.org/sqlite v1.58.0
)

require (
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	github.com/jinzhu/inflection v1.0.0 // indirect
	github.com/jinzhu/now v1.1.5 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
	github.com/ncruces/go-strftime v1.0.0 // indirect
	github.com/rabbitmq/amqp091-go v1.16.0 // indirect
	github.com/remyoudompheng/bigfft v0.0.0-20230129092748-24d4a6f8daec // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
	golang.org/x/text v0.41.0 // indirect
	modernc.org/libc v1.75.6 // indirect
	modernc.org/mathutil v1.7.1 // indirect
	modernc.org/memory v1.12.1 // indirect
)
