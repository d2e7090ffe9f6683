package config

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/outbox-go/outbox/relay"
)

// maxRefusedBackoff is checked together with relay.refused_backoff, which is set
// before.
func maxRefusedBackoff(c *Config, values []string) error {
	d, err := time.ParseDuration(values[0])
	if err != nil {
		return errDuration
	}
	c.Relay.MaxRefusedBackoff = d
	one := relay.Config{RefusedBackoff: c.Relay.RefusedBackoff, MaxRefusedBackoff: d}
	if d <= 0 {
		return errors.New("must not be zero; leave the key out for the default")
	}
	return reason(one.Validate(), ", ")
}

// positive takes a duration that is longer than nothing.
func positive(field func(*Config) *time.Duration) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		d, err := time.ParseDuration(values[0])
		if err != nil {
			return errDuration
		}
		if d < time.Millisecond {
			return errors.New("must be at least 1ms; leave the key out for the default")
		}
		*field(c) = d
		return nil
	}
}

// between takes a whole number.
func between(least, most int, field func(*Config) *int) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		n, err := strconv.Atoi(strings.ReplaceAll(values[0], "_", ""))
		if err != nil {
			return errNumber
		}
		if n < least || n > most {
			return fmt.Errorf("must be %d to %d", least, most)
		}
		*field(c) = n
		return nil
	}
}

// oneOf takes one of some words.
func oneOf(field func(*Config) *string, words ...string) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		for _, word := range words {
			if values[0] == word {
				*field(c) = word
				return nil
			}
		}
		return unknownWord(values[0], words...)
	}
}

var (
	queueType = oneOf(func(c *Config) *string { return &c.Broker.QueueType }, "quorum", "classic")
	mode      = oneOf(func(c *Config) *string { return &c.Broker.Mode }, "structured", "binary", "batched")
)

func queueHeaders(c *Config, values []string) error {
	c.Broker.QueueHeaders = map[string]string{}
	for _, value := range values {
		name, text, ok := strings.Cut(value, "=")
		if !ok || name == "" {
			return fmt.Errorf("has %q: must be name=value", value)
		}
		c.Broker.QueueHeaders[strings.TrimSpace(name)] = strings.TrimSpace(text)
	}
	return nil
}

// requestHeaders quotes nothing of a value, which may be a password.
func requestHeaders(c *Config, values []string) error {
	headers, err := parseHeaders(values)
	c.Broker.RequestHeaders = headers
	return err
}

func parseHeaders(values []string) (http.Header, error) {
	headers := http.Header{}
	for i, value := range values {
		name, text, ok := strings.Cut(value, ":")
		name, text = strings.TrimSpace(name), strings.TrimSpace(text)
		switch {
		case !ok:
			return nil, fmt.Errorf("has no colon in header %d: write Name: value", i+1)
		case name == "" || strings.ContainsFunc(name, unicode.IsSpace):
			return nil, fmt.Errorf("has no name in header %d: write Name: value", i+1)
		case strings.ContainsFunc(text, unicode.IsControl):
			return nil, fmt.Errorf("has a control character in the value of %s", name)
		}
		headers.Add(name, text)
	}
	return headers, nil
}
