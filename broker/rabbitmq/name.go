package rabbitmq

import (
	"strings"
	"time"
)

const (
	deadLetterSuffix         = ".dlq"
	retryInfix               = ".retry."
	queueSuffix              = ".queue"
	deadLetterExchangeSuffix = ".dlx"
)

// queueName returns the name at the broker of a subscription's queue: its own, but
// one that could be that of the retries or dead letters of another queue has
// ".queue" behind it.
func queueName(name string) string {
	base := name
	for strings.HasSuffix(base, queueSuffix) {
		base = strings.TrimSuffix(base, queueSuffix)
	}
	if isDerived(base) {
		return name + queueSuffix
	}
	return name
}

func isDerived(name string) bool {
	at := strings.LastIndex(name, retryInfix)
	return strings.HasSuffix(name, deadLetterSuffix) || at >= 0 && isDelay(name[at+len(retryInfix):])
}

func isDelay(text string) bool {
	_, err := time.ParseDuration(text)
	return err == nil
}

// deadLetterQueue returns the name of the queue of the dead letters of queue.
func deadLetterQueue(queue string) string { return queue + deadLetterSuffix }

// retryQueue returns the name of the queue where messages for queue wait for r.
func retryQueue(queue string, r rung) string { return queue + retryInfix + r.String() }

// belongs reports whether a queue is queue, or its retries or dead letters.
func belongs(name, queue string) bool {
	rest, ok := strings.CutPrefix(name, queue)
	if !ok {
		return false
	}
	delay, retried := strings.CutPrefix(rest, retryInfix)
	return rest == "" || rest == deadLetterSuffix || retried && isDelay(delay)
}
