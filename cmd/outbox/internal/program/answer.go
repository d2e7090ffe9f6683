package program

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/outbox-go/outbox/worker"
)

// maxAnswer bounds the line of an answer.
const maxAnswer = 64 << 10

// answer is what a program says of a message. What is null is not there.
type answer struct {
	ID     *string `json:"id"`
	Ack    any     `json:"ack"`
	Retry  any     `json:"retry"`
	Reject any     `json:"reject"`
	Reason string  `json:"reason"`
}

var (
	errNoAnswer = errors.New(`is no object with "id" and one of "ack", "retry" and "reject"`)
	errBadRetry = errors.New(`has a "retry" that is neither true nor a duration such as "10s"`)
	errTooLong  = fmt.Errorf("is longer than %d KiB", maxAnswer>>10)
)

// parseAnswer returns the id of the message, nil if there is none to be found, and
// what becomes of it: the error of its handler. fault is what is wrong with the line.
func parseAnswer(line []byte) (id *string, outcome, fault error) {
	var a answer
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&a)
	if a.ID == nil {
		a.ID = idIn(line)
	}
	switch {
	case len(line) > maxAnswer:
		return a.ID, nil, errTooLong
	case err != nil || a.ID == nil || decoder.More():
		return a.ID, nil, errNoAnswer
	}
	outcome, fault = a.outcome()
	return a.ID, outcome, fault
}

// outcome returns the error of the message's handler, and what is wrong with the
// answer.
func (a *answer) outcome() (outcome, fault error) {
	given := 0
	for _, word := range []any{a.Ack, a.Retry, a.Reject} {
		if word != nil {
			given++
		}
	}
	const again = "the program asks for another attempt"
	text, isText := a.Reject.(string)
	switch {
	case given != 1:
		return nil, errNoAnswer
	case a.Ack == true:
		return nil, nil
	case a.Retry == true:
		return worker.Retry(a.because(again)), nil
	case a.Retry != nil:
		wait, _ := a.Retry.(string)
		delay, err := time.ParseDuration(wait)
		if err != nil || delay < 0 {
			return nil, errBadRetry
		}
		return worker.RetryAfter(delay, a.because(again)), nil
	case a.Reject == true, isText && text == "":
		return worker.Abort(a.because("the program rejects it")), nil
	case isText:
		return worker.Abort(a.because(text)), nil
	}
	return nil, errNoAnswer
}

// idIn returns the id that a line begins to answer for, if it can be read so far.
func idIn(line []byte) *string {
	decoder := json.NewDecoder(bytes.NewReader(line))
	if begin, err := decoder.Token(); err != nil || begin != json.Delim('{') {
		return nil
	}
	for {
		name, err := decoder.Token()
		if err != nil {
			return nil
		}
		var value json.RawMessage
		if decoder.Decode(&value) != nil {
			return nil
		}
		var id *string
		if text, ok := name.(string); ok && strings.EqualFold(text, "id") && json.Unmarshal(value, &id) == nil {
			return id
		}
	}
}

// because returns the reason that the program gives, or else.
func (a *answer) because(otherwise string) error {
	if a.Reason == "" {
		return errors.New(bounded(otherwise))
	}
	return errors.New(bounded(a.Reason))
}

// bounded returns the beginning of a text that is too long for a reason.
func bounded(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// badAnswer is why a message failed of which the answer cannot be read.
func badAnswer(fault error) error { return fmt.Errorf("the program's answer %w", fault) }
