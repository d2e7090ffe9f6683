module github.com/outbox-go/outbox/codec/msgpack

go 1.25.0

require (
	github.com/google/uuid v1.6.0
	github.com/outbox-go/outbox v0.0.0
	github.com/vmihailenco/msgpack/v5 v5.4.1
)

require github.com/vmihailenco/tagparser/v2 v2.0.0 // indirect

replace github.com/outbox-go/outbox => ../..
