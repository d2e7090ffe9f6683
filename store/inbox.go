package store

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of an inbox's row, in bytes.
const (
	MaxConsumer  = 200
	MaxMessageID = 255
)

// CheckInboxRow reports whether an inbox can remember id for consumer. An empty id
// is none: all messages without one would count as the same.
func CheckInboxRow(consumer, id string) error {
	if err := checkInboxText("consumer", consumer, MaxConsumer); err != nil {
		return err
	}
	return checkInboxText("message id", id, MaxMessageID)
}

func checkInboxText(what, text string, most int) error {
	switch {
	case text == "":
		return fmt.Errorf("inbox: the %s is empty", what)
	case len(text) > most:
		return fmt.Errorf("inbox: the %s has %d bytes, at most %d are allowed", what, len(text), most)
	case !utf8.ValidString(text):
		return fmt.Errorf("inbox: the %s %q is not valid UTF-8", what, text)
	case strings.IndexByte(text, 0) >= 0:
		return fmt.Errorf("inbox: the %s %q contains a zero byte", what, text)
	}
	return nil
}
