package membroker

import "github.com/outbox-go/outbox"

// SetDown stops the broker, or starts it again with its queues as they were.
// While it is down every publish is answered [outbox.ErrUnavailable], nothing is
// delivered and Settle fails. Stopping it does what [Broker.Cut] does.
func (b *Broker) SetDown(down bool) {
	b.mu.Lock()
	b.down = down
	if down {
		b.cutConsumers()
	} else {
		b.wakeConsumers()
	}
	b.mu.Unlock()
	if down {
		b.loseHeld()
	}
}

// Cut breaks all connections; they are back at once. What is held back is lost
// and answered [outbox.ErrUnavailable], what subscribers have not settled goes
// back to its queue as redelivered, and ready is called again.
func (b *Broker) Cut() {
	b.mu.Lock()
	b.cutConsumers()
	b.mu.Unlock()
	b.loseHeld()
}

// Refuse asks fn about each message that enters, in their order; an error is the
// publisher's answer, counted as [outbox.ErrRefused] unless it is classified
// already, and the message enters no queue. A nil fn takes every message. fn may
// call SetDown(false) and Refuse, but nothing that publishes or answers.
func (b *Broker) Refuse(fn func(*outbox.Message) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = fn
}

// RefuseSettle asks fn about each [outbox.Retry] and [outbox.DeadLetter]; an error
// is Settle's answer, and the message stays unsettled. A nil fn lets all of them
// succeed. fn may call all methods of the broker: RefuseSettle(nil), say, to refuse
// once.
func (b *Broker) RefuseSettle(fn func(*outbox.Message, outbox.Settlement) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuseSettle = fn
}

// Hold makes the broker keep what is published from now on: it enters no queue
// and is not answered, until [Broker.Confirm], [Broker.Lose], [Broker.Release]
// or [Broker.Cut] decides. It is on its way, so to speak.
func (b *Broker) Hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding = true
}

// Held returns the number of messages held back.
func (b *Broker) Held() int {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	return len(b.held)
}

// Confirm takes the n oldest messages held back, or all if there are fewer, and
// answers them as if they had not been held. It returns how many there were.
func (b *Broker) Confirm(n int) int {
	return b.decide(n, b.take)
}

// Lose takes the n oldest messages held back, or all if there are fewer, but
// their answers are lost: the publisher gets [outbox.ErrUnavailable] for messages
// that did enter their queues. It returns how many there were.
func (b *Broker) Lose(n int) int {
	return b.decide(n, func(m *outbox.Message) error {
		b.route(m)
		return errLost
	})
}

// Release confirms all that is held back and ends [Broker.Hold].
func (b *Broker) Release() {
	b.publishing.Lock()
	b.mu.Lock()
	b.holding = false
	b.mu.Unlock()
	answers := b.decideLocked(len(b.held), b.take)
	b.publishing.Unlock()
	for _, call := range answers {
		call()
	}
}

func (b *Broker) decide(n int, take func(*outbox.Message) error) int {
	b.publishing.Lock()
	answers := b.decideLocked(n, take)
	b.publishing.Unlock()
	for _, call := range answers {
		call()
	}
	return len(answers)
}

// decideLocked is decide with publishing held; the answers are given after it.
func (b *Broker) decideLocked(n int, take func(*outbox.Message) error) []func() {
	n = min(n, len(b.held))
	answers := make([]func(), n)
	for i, h := range b.held[:n] {
		err := take(h.message)
		answers[i] = func() { h.done(err) }
	}
	b.held = b.held[n:]
	return answers
}

func (b *Broker) loseHeld() {
	b.publishing.Lock()
	lost := b.held
	b.held = nil
	b.publishing.Unlock()
	answer(lost, errLost)
}

// cutConsumers gives back what is unsettled. The caller holds mu.
func (b *Broker) cutConsumers() {
	for c := range b.consumers {
		c.giveBack()
		c.signal()
	}
}

// wakeConsumers makes every consumer look again. The caller holds mu.
func (b *Broker) wakeConsumers() {
	for c := range b.consumers {
		c.signal()
	}
}
