package natsjs

import (
	"strconv"
	"strings"
	"time"
)

// replySubject returns the subject of the answer to message n.
func replySubject(inbox string, n uint64) string {
	b := make([]byte, 0, 64)
	b = append(b, inbox...)
	return string(strconv.AppendUint(b, n, 36))
}

// numberOf is the reverse of replySubject.
func numberOf(subject, inbox string) (uint64, bool) {
	token, ok := strings.CutPrefix(subject, inbox)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(token, 36, 64)
	return n, err == nil
}

// position is what the server says of a delivery.
type position struct {
	times    int       // how often the message was delivered, with this delivery
	sequence uint64    // of the message in its stream
	stored   time.Time // when the stream stored the message
}

// positionOf reads the subject to which a message is acknowledged,
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//
// or, in newer servers, with domain and account before the stream and sometimes a
// token at the end.
func positionOf(reply string) (position, bool) {
	var tokens [11]string // of a slice it would be one allocation for each message
	n := 0
	for token := range strings.SplitSeq(reply, ".") {
		if n < len(tokens) {
			tokens[n] = token
		}
		n++
	}
	at := 4
	if n >= 11 {
		at = 6
	} else if n != 9 {
		return position{}, false
	}
	times, err := strconv.Atoi(tokens[at])
	if err != nil {
		return position{}, false
	}
	sequence, err := strconv.ParseUint(tokens[at+1], 10, 64)
	if err != nil {
		return position{}, false
	}
	nanos, err := strconv.ParseInt(tokens[at+3], 10, 64)
	if err != nil {
		return position{}, false
	}
	return position{times: times, sequence: sequence, stored: time.Unix(0, nanos).UTC()}, true
}
