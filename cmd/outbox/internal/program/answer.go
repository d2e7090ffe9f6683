package program

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/outbox-go/outbox/worker"
)

// maxAnswer bounds the line of an answer.
const maxAnswer = 64 << 10

// answer is what a program says of a message.
type answer struct {
	ID     *string         `json:"id"`
	Ack    json.RawMessage `json:"ack"`
	Retry  json.RawMessage `json:"retry"`
	Reject json.RawMessage `json:"reject"`
	Reason string          `json:"reason"`
}

var (
	errNoAnswer = errors.New(`is no object with "id" and one of "ack", "retry" and "reject"`)
	errBadRetry = errors.New(`has a "retry" that is neither true nor a duration such as "10s"`)
)

// parseAnswer returns the id of the message, nil if there is none to be found, and
// what becomes of it: the error of its handler. fault is what is wrong with the line.
func parseAnswer(line []byte) (id *string, outcome, fault error) {
	var a answer
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&a)
	if err != nil || a.ID == nil || decoder.More() {
		return a.ID, nil, errNoAnswer
	}
	given := 0
	for _, word := range []json.RawMessage{a.Ack, a.Retry, a.Reject} {
		if word != nil {
			given++
		}
	}
	isTrue := func(word json.RawMessage) bool { return string(word) == "true" }
	var text string
	switch {
	case given != 1:
		return a.ID, nil, errNoAnswer
	case isTrue(a.Ack):
		return a.ID, nil, nil
	case isTrue(a.Retry):
		return a.ID, worker.Retry(a.because("the program asks for another attempt")), nil
	case a.Retry != nil && json.Unmarshal(a.Retry, &text) == nil:
		delay, err := time.ParseDuration(text)
		if err != nil || delay < 0 {
			return a.ID, nil, errBadRetry
		}
		return a.ID, worker.RetryAfter(delay, a.because("the program asks for another attempt")), nil
	case isTrue(a.Reject):
		return a.ID, worker.Abort(a.because("the program rejects it")), nil
	case a.Reject != nil && json.Unmarshal(a.Reject, &text) == nil:
		return a.ID, worker.Abort(a.because(text)), nil
	}
	return a.ID, nil, errNoAnswer
}

// because returns the reason that the program gives, or else.
func (a *answer) because(otherwise string) error {
	if a.Reason == "" {
		return errors.New(otherwise)
	}
	return errors.New(a.Reason)
}

// badAnswer is why a message failed of which the answer cannot be read.
func badAnswer(fault error) error { return fmt.Errorf("the program's answer %w", fault) }
