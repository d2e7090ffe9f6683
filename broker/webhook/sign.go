package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Headers and forms of Standard Webhooks
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
const (
	headerWebhookID        = "webhook-id"
	headerWebhookTimestamp = "webhook-timestamp" // seconds since 1970
	headerWebhookSignature = "webhook-signature" // separated by spaces

	secretPrefix    = "whsec_"
	signaturePrefix = "v1,"
	minKey, maxKey  = 24, 64
)

// signingKeys are the keys of secrets, in their order.
type signingKeys [][]byte

// parseSecrets returns the keys and the faults of secrets, which it does not show.
func parseSecrets(secrets []string) (signingKeys, error) {
	var errs []error
	keys := make(signingKeys, 0, len(secrets))
	for i, secret := range secrets {
		encoded, ok := strings.CutPrefix(secret, secretPrefix)
		key, err := base64.StdEncoding.DecodeString(encoded)
		switch {
		case !ok || err != nil:
			errs = append(errs, fmt.Errorf(`Secrets[%d] is not "whsec_" and base64: make one by printf whsec_; openssl rand -base64 32`, i))
		case len(key) < minKey || len(key) > maxKey:
			errs = append(errs, fmt.Errorf("Secrets[%d] has %d bytes, want %d to %d", i, len(key), minKey, maxKey))
		}
		keys = append(keys, key)
	}
	return keys, errors.Join(errs...)
}

// sign sets the headers that sign body, if there are keys.
func (k signingKeys) sign(h http.Header, id string, at time.Time, body []byte) {
	if len(k) == 0 {
		return
	}
	timestamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(k))
	for i, key := range k {
		signatures[i] = signaturePrefix + base64.StdEncoding.EncodeToString(signature(key, id, timestamp, body))
	}
	h.Set(headerWebhookID, id)
	h.Set(headerWebhookTimestamp, timestamp)
	h.Set(headerWebhookSignature, strings.Join(signatures, " "))
}

// signature returns that of a body, by one key; id and timestamp are the headers.
func signature(key []byte, id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}
