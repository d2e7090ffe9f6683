package model

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/outbox-go/outbox"
)

// headerDestination is what package broker/stomp publishes by, in the place of its
// configured destination.
const headerDestination = "stomp-destination"

// maxDestination is what a header of a message may have, in bytes.
const maxDestination = 8 << 10

// topicPrefix is that of the STOMP destinations which are a topic.
const topicPrefix = "/topic/"

// setDestination sets the topic, and the STOMP destination where the topic does not
// say it all.
func (p *plan) setDestination(destination string) error {
	if err := checkHeader(destination); err != nil {
		return fmt.Errorf("Destination %.100q %w", destination, err)
	}
	name := destination
	if strings.HasPrefix(name, "/") {
		if strings.Count(name, "/") < 2 {
			return fmt.Errorf("Destination %q is a STOMP destination of one segment: write it like /topic/user.saved", destination)
		}
		name = name[strings.LastIndexByte(name, '/')+1:]
	}
	suffix := ""
	if p.version != "" {
		if err := outbox.ValidateTopic(p.version); err != nil {
			return fmt.Errorf("Version %q is appended to the destination and %w", p.version, err)
		}
		if suffix = "." + p.version; strings.HasSuffix(name, suffix) {
			suffix = ""
		}
	}
	if err := outbox.ValidateTopic(name + suffix); err != nil {
		if destination == "" {
			err = errors.New(`is empty: name a topic such as "user.saved"`)
		}
		return fmt.Errorf("Destination %q %w", destination, err)
	}
	p.topic = name + suffix
	if destination != name && destination != topicPrefix+name {
		p.headers = map[string]string{headerDestination: destination + suffix}
	}
	return nil
}

// checkHeader reports what keeps a destination, with any version, from being a header.
func checkHeader(destination string) error {
	switch i := strings.IndexFunc(destination, unicode.IsControl); {
	case len(destination) > maxDestination-outbox.MaxTopic:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(destination), maxDestination-outbox.MaxTopic)
	case !utf8.ValidString(destination):
		return errors.New("is not valid UTF-8")
	case i >= 0:
		return fmt.Errorf("has a control character at byte %d", i)
	}
	return nil
}

// address tells destinations apart.
func (p *plan) address() string {
	if whole, ok := p.headers[headerDestination]; ok {
		return whole
	}
	return topicPrefix + p.topic
}
