// Package stomp publishes to and consumes from RabbitMQ by STOMP 1.2
// (https://stomp.github.io/stomp-specification-1.2.html).
package stomp
