package config

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/relay"
)

func text(field func(*Config) *string) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		*field(c) = values[0]
		return nil
	}
}

var errNumber = errors.New("is not a whole number, such as 1000")

func number(field func(*relay.Config) *int) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		n, err := strconv.Atoi(strings.ReplaceAll(values[0], "_", ""))
		if err != nil {
			return errNumber
		}
		return setRelay(c, field, n)
	}
}

func maxShards(c *Config, values []string) error {
	n, err := strconv.Atoi(values[0])
	if err != nil {
		return errNumber
	}
	if n == 0 {
		return nil
	}
	return setRelay(c, func(c *relay.Config) *int { return &c.MaxShards }, n)
}

func size(field func(*relay.Config) *int) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		n, err := parseSize(values[0])
		if err != nil {
			return err
		}
		return setRelay(c, field, n)
	}
}

var errDuration = errors.New("is not a duration, such as 500ms, 10s or 1m30s")

func duration(field func(*relay.Config) *time.Duration) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		d, err := time.ParseDuration(values[0])
		if err != nil {
			return errDuration
		}
		return setRelay(c, field, d)
	}
}

func pipelined(c *Config, values []string) error {
	one := relay.Config{Pipelined: values}
	c.Relay.Pipelined = values
	return reason(one.Validate(), "Pipelined has ")
}

// setRelay sets a field of the relay's and has the relay say whether it may have
// that value.
func setRelay[T comparable](c *Config, field func(*relay.Config) *T, value T) error {
	var zero T
	if value == zero {
		return errors.New("must not be zero; leave the key out for the default")
	}
	var one relay.Config
	*field(&one) = value
	*field(&c.Relay) = value
	return reason(one.Validate(), ", ")
}

// reason takes from err, if it is not nil, what the names before it would repeat.
func reason(err error, after string) error {
	if err == nil {
		return nil
	}
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if _, rest, ok := strings.Cut(text, after); ok {
		text = rest
	}
	return errors.New(strings.ReplaceAll(text, `", which `, `" `))
}

func logLevel(c *Config, values []string) error {
	switch values[0] {
	case "debug", "info", "warn", "error":
		return c.Log.Level.UnmarshalText([]byte(values[0]))
	}
	return unknownWord(values[0], "debug", "info", "warn", "error")
}

// choice takes one of two words, for false and for true.
func choice(no, yes string, field func(*Config) *bool) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		if values[0] != no && values[0] != yes {
			return unknownWord(values[0], no, yes)
		}
		*field(c) = values[0] == yes
		return nil
	}
}

var unroutable = choice("refuse", "accept", func(c *Config) *bool { return &c.Broker.Accept })

func unknownWord(have string, words ...string) error {
	last := len(words) - 1
	list := strings.Join(words[:last], ", ") + " or " + words[last]
	if near := nearest(have, words); near != "" {
		return fmt.Errorf("must be %s; did you mean %s?", list, near)
	}
	return fmt.Errorf("must be %s", list)
}

func policies(c *Config, values []string) error {
	c.Relay.Policies = nil
	return pairs(values, "policy", func(pattern, name string) error {
		policy, err := relay.ParsePolicy(name)
		if err != nil {
			return unknownWord(name, "skip", "park", "block")
		}
		c.Relay.Policies = append(c.Relay.Policies, relay.TopicPolicy{Pattern: pattern, Policy: policy})
		return nil
	})
}

func rates(c *Config, values []string) error {
	c.Relay.Rates = nil
	return pairs(values, "number/s", func(pattern, text string) error {
		perSecond, err := parseRate(text)
		if err != nil {
			return err
		}
		one := relay.Config{Rates: []relay.Rate{{Pattern: pattern, PerSecond: perSecond}}}
		c.Relay.Rates = append(c.Relay.Rates, one.Rates...)
		return reason(one.Validate(), "relay: ")
	})
}

// parseRate reads "100/s", "30/m" or "5/h" as messages a second.
func parseRate(text string) (float64, error) {
	number, unit, _ := strings.Cut(text, "/")
	seconds, ok := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || n <= 0 || math.IsInf(n, 0) || math.IsNaN(n) {
		return 0, errors.New("must be a number of messages, and of what time, such as 100/s, 30/m or 5/h")
	}
	return n / seconds, nil
}

func renames(c *Config, values []string) error {
	var transforms []func(context.Context, *outbox.Message) error
	err := pairs(values, "template", func(pattern, template string) error {
		transform, err := relay.Rename(pattern, template)
		transforms = append(transforms, transform)
		return reason(err, "relay: rename: ")
	})
	c.Relay.Transform = relay.Chain(transforms...)
	return err
}

// pairs takes pattern=value apart. Both are of one message each, so that all
// faults of a list are told.
func pairs(values []string, what string, each func(pattern, value string) error) error {
	var faults []string
	for _, value := range values {
		err := func() error {
			at := strings.LastIndexByte(value, '=')
			if at < 0 {
				return errors.New("must be pattern=" + what)
			}
			pattern, right := strings.TrimSpace(value[:at]), strings.TrimSpace(value[at+1:])
			if err := outbox.ValidatePattern(pattern); err != nil {
				return fmt.Errorf("the pattern %w", err)
			}
			return each(pattern, right)
		}()
		if err != nil {
			faults = append(faults, fmt.Sprintf("%q: %v", value, err))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New("has " + strings.Join(faults, "; "))
}

func keep(c *Config, values []string) (err error) {
	switch text := values[0]; text {
	case "0":
		c.Relay.Keep = 0
		return nil
	case "forever":
		c.Relay.Keep = relay.Forever
		return nil
	default:
		age, err := ParseAge(text)
		if err != nil {
			return errors.New("must be 0, an age such as 30d or 36h, or forever")
		}
		return setRelay(c, func(c *relay.Config) *time.Duration { return &c.Keep }, age)
	}
}

func route(c *Config, values []string) error {
	c.Drain.Route = values[0]
	return outbox.ValidateRoute(values[0])
}

func outboxes(c *Config, values []string) error {
	c.Drain.Outboxes = nil
	for _, value := range values {
		schema, prefix, _ := strings.Cut(value, "/")
		one := Outbox{Schema: schema, TablePrefix: prefix}
		if slices.Contains(c.Drain.Outboxes, one) {
			return fmt.Errorf("has %q twice: remove one of them", value)
		}
		c.Drain.Outboxes = append(c.Drain.Outboxes, one)
	}
	return nil
}

func listen(c *Config, values []string) error {
	c.Drain.Listen = values[0]
	_, port, err := net.SplitHostPort(values[0])
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return errors.New("must be an address with a port number, such as :9464 or 127.0.0.1:9464")
	}
	return nil
}
