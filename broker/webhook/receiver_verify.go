package webhook

import (
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// signatureTolerance is how far a signature's time may be from the receiver's: what
// somebody has recorded cannot be sent again later.
const signatureTolerance = 5 * time.Minute

// verify reports why the headers do not sign body by one of the keys; without keys
// nothing needs to be signed.
func (k signingKeys) verify(h http.Header, now time.Time, body []byte) error {
	if len(k) == 0 {
		return nil
	}
	id, timestamp, signatures := h.Get(headerWebhookID), h.Get(headerWebhookTimestamp), h.Get(headerWebhookSignature)
	if id == "" || timestamp == "" || signatures == "" {
		return errors.New("the request is not signed: " + headerWebhookID + ", " + headerWebhookTimestamp + " or " + headerWebhookSignature + " is missing")
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return errors.New(headerWebhookTimestamp + " is not a number of seconds")
	}
	if away := now.Sub(time.Unix(seconds, 0)); away.Abs() > signatureTolerance {
		return errors.New("the signature is older than 5 min, or of the future: are the clocks right?")
	}
	expected := make([][]byte, len(k))
	for i, key := range k {
		expected[i] = signature(key, id, timestamp, body)
	}
	for text := range strings.SplitSeq(signatures, " ") {
		text, ok := strings.CutPrefix(text, signaturePrefix)
		have, err := base64.StdEncoding.DecodeString(text)
		if ok && err == nil && slices.ContainsFunc(expected, func(want []byte) bool { return hmac.Equal(have, want) }) {
			return nil
		}
	}
	return errors.New("the signature is not by a known secret")
}
