package config

import (
	"errors"
	"fmt"
	"time"
)

const (
	// maxWindow bounds what AMQP has 16 bits for.
	maxWindow = 1<<16 - 1

	maxRetryDelays = 16
	maxRetryDelay  = 24 * time.Hour
)

func retries(c *Config, values []string) error {
	c.Subscribe.Retries = nil
	for _, value := range values {
		d, err := time.ParseDuration(value)
		switch {
		case err != nil:
			return fmt.Errorf("has %q, which %w", value, errDuration)
		case d < 0 || d > maxRetryDelay:
			return fmt.Errorf("has %q: each wait must be 0s to 24h", value)
		}
		c.Subscribe.Retries = append(c.Subscribe.Retries, d)
	}
	if len(values) > maxRetryDelays {
		return fmt.Errorf("has %d waits, at most %d are possible", len(values), maxRetryDelays)
	}
	return nil
}

func inboxKeep(c *Config, values []string) error {
	if values[0] == "forever" {
		c.Subscribe.InboxKeep = -1
		return nil
	}
	age, err := ParseAge(values[0])
	if err != nil {
		return errors.New("must be an age such as 30d or 36h, or forever")
	}
	c.Subscribe.InboxKeep = age
	return nil
}
