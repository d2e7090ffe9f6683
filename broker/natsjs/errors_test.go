package natsjs

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/outbox-go/outbox"
)

func TestIsStored(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{
		`{"stream":"s","seq":7}`:                          true,
		`{"stream":"s","domain":"d","seq":7}`:             true,
		`{"stream":"s","seq":12,"duplicate": true}`:       true,
		`{"stream":"s","seq":0}`:                          false,
		`{"stream":"s","seq":`:                            false,
		`{"stream":"s","seq":}`:                           false,
		`{"stream":"s"}`:                                  false,
		`{"stream":"\"seq\":1","seq":0}`:                  false,
		`{"stream":"s","seq":7,"error":{"code":503}}`:     false,
		`{"error":{"code":503},"stream":"s","seq":7}`:     false,
		`{"type":"x","error":{"err_code":10077},"seq":0}`: false,
		`+OK`: false,
		``:    false,
	} {
		if got := isStored([]byte(answer)); got != want {
			t.Errorf("%s: %t, want %t", answer, got, want)
		}
		if err := classifyAnswer(&nats.Msg{Data: []byte(answer)}); (err == nil) != want {
			t.Errorf("%s: classified as %v, want an error: %t", answer, err, !want)
		}
	}
	empty := &nats.Msg{Header: nats.Header{"Status": {"503"}}}
	if err := classifyAnswer(empty); !errors.Is(err, outbox.ErrUnavailable) {
		t.Errorf("no responders: %v, want ErrUnavailable", err)
	}
}
