package config

import (
	"net/url"
	"regexp"
	"strings"
)

const hidden = "xxxxx"

// secretParameter is a parameter of a URL whose value is nobody's business.
var secretParameter = regexp.MustCompile(`(?i)([?&;][^=&;?]*(?:pass|secret|token|jwt|seed|nkey)[^=&;?]*=)[^&;]*`)

// Redact returns a URL without its secrets, also if it is none that could be
// parsed: a password with reserved characters in it must not be seen either.
func Redact(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		if strings.HasPrefix(text, "sqlite:") || strings.HasPrefix(text, "stdout:") || !strings.ContainsAny(text, "=@:") {
			return secretParameter.ReplaceAllString(text, "${1}"+hidden)
		}
		return hidden // whatever it is, it may have a password in it
	}
	// The last @ of all: an unescaped one, or a slash, can be part of a password.
	// Several servers of NATS each have their own.
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		user, _, hasPassword := strings.Cut(rest[:at], ":")
		if !hasPassword && scheme == "nats" || strings.ContainsAny(user, "@/?#") {
			user, hasPassword = hidden, false // a token
		}
		if hasPassword {
			user += ":" + hidden
		}
		rest = user + rest[at:]
	}
	if address, _, ok := strings.Cut(rest, "?"); ok && (scheme == "http" || scheme == "https") {
		return scheme + "://" + address + "?" + hidden // anything may be a token there
	}
	return scheme + "://" + secretParameter.ReplaceAllString(rest, "${1}"+hidden)
}

// Scrub returns text, somebody else's words about a URL, without that URL's secrets.
func Scrub(text, rawURL string) string {
	text = strings.ReplaceAll(text, rawURL, Redact(rawURL))
	_, rest, _ := strings.Cut(rawURL, "://")
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return text
	}
	user, password, ok := strings.Cut(rest[:at], ":")
	if !ok {
		password = user
	}
	plain, err := url.PathUnescape(password)
	if err != nil {
		plain = password
	}
	for _, secret := range []string{password, plain} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, hidden)
		}
	}
	return text
}
