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

// delivered reads, from the subject to which a message is acknowledged, how often
// it was delivered and when the stream stored it. The subject is
//
//	$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
//
// or, in newer servers, has domain and account before the stream and sometimes a
// token at the end.
func delivered(reply string) (times int, stored time.Time, ok bool) {
	tokens := strings.Split(reply, ".")
	at := 4
	if len(tokens) >= 11 {
		at = 6
	} else if len(tokens) != 9 {
		return 0, time.Time{}, false
	}
	times, err := strconv.Atoi(tokens[at])
	if err != nil {
		return 0, time.Time{}, false
	}
	nanos, err := strconv.ParseInt(tokens[at+3], 10, 64)
	if err != nil {
		return 0, time.Time{}, false
	}
	return times, time.Unix(0, nanos).UTC(), true
}
