package natsjs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

var (
	errClosed     = outbox.Unavailable(errors.New("natsjs: closed"))
	errConnecting = outbox.Unavailable(errors.New("natsjs: not connected"))
	errLost       = outbox.Unavailable(errors.New("natsjs: connection lost"))
	errNoAnswer   = outbox.Unavailable(errors.New("natsjs: no answer within Config.ConfirmTimeout"))
	errSilent     = outbox.Unavailable(errors.New("natsjs: the server gives no sign of life"))
	errNoStream   = outbox.Unavailable(errors.New("natsjs: no stream takes the subject, or JetStream is not ready"))
)

// errNoBucket: somebody has deleted the bucket of the retries.
var errNoBucket = errors.New("natsjs: the bucket of the retries is gone")

// Error codes of JetStream, from the server's errors.json.
const (
	codeClusterNotAvailable = 10008
	codeClusterNotLeader    = 10009
	codeInsufficient        = 10023
	codeNotEnabledAccount   = 10039
	codeStreamOffline       = 10118
	codeNotEnabled          = 10076
	codeMessageTooLarge     = 10054
	codeHeaderTooLarge      = 10097
	codeNoMessage           = 10037
	codeNoStream            = 10059
	codeStoreFailed         = 10077 // also when a limit of the stream is reached
)

// acknowledgement is what the server answers to a message.
type acknowledgement struct {
	Sequence uint64 `json:"seq"`
	Error    *struct {
		Code        int    `json:"code"`
		ErrorCode   int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// isStored recognizes the answer that nearly all messages get, such as
//
//	{"stream":"outbox","seq":7}
//
// since to take it apart as JSON is a great part of the cost of publishing. Of what
// it does not know it says no.
func isStored(answer []byte) bool {
	if !bytes.HasPrefix(answer, []byte(`{"stream":"`)) || answer[len(answer)-1] != '}' || bytes.Contains(answer, []byte(`"error"`)) {
		return false
	}
	_, after, found := bytes.Cut(answer, []byte(`"seq":`))
	return found && after[0] >= '1' && after[0] <= '9'
}

// classifyAnswer returns what the answer to a message means.
func classifyAnswer(msg *nats.Msg) error {
	if isStored(msg.Data) {
		return nil
	}
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		return errNoStream
	}
	var ack acknowledgement
	if err := json.Unmarshal(msg.Data, &ack); err != nil {
		return outbox.Refused(fmt.Errorf("natsjs: the answer is not JetStream's: %w", err))
	}
	if ack.Error == nil {
		if ack.Sequence == 0 {
			return outbox.Refused(errors.New("natsjs: the answer is not JetStream's: it has no sequence"))
		}
		return nil
	}
	err := fmt.Errorf("natsjs: %s (code %d)", ack.Error.Description, ack.Error.ErrorCode)
	switch ack.Error.ErrorCode {
	case codeMessageTooLarge, codeHeaderTooLarge:
		return outbox.Invalid(err)
	case codeClusterNotAvailable, codeClusterNotLeader, codeInsufficient, codeNotEnabledAccount, codeNotEnabled, codeStreamOffline:
		return outbox.Unavailable(err)
	case codeStoreFailed:
		if !strings.Contains(ack.Error.Description, "maximum") {
			return outbox.Unavailable(err) // the store is closing, not full
		}
	}
	return outbox.Refused(err)
}

// classifySend returns what the client's error means.
func classifySend(err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg):
		return outbox.Invalid(fmt.Errorf("natsjs: %w", err))
	default:
		return outbox.Unavailable(fmt.Errorf("natsjs: send: %w", err))
	}
}
