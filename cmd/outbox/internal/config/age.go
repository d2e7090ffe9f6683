package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var errAge = errors.New("is not an age, such as 30d, 36h or 1d12h")

// ParseAge reads a duration that may begin with days, of 24 hours: "30d", "1d12h",
// "36h". It is positive.
func ParseAge(text string) (time.Duration, error) {
	var age time.Duration
	rest := text
	if digits, after, ok := strings.Cut(text, "d"); ok {
		days, err := strconv.ParseUint(digits, 10, 32)
		if err != nil {
			return 0, errAge
		}
		if days > uint64(math.MaxInt64/day) {
			return 0, errors.New("is too long: at most 106751d are possible")
		}
		age, rest = time.Duration(days)*day, after //nolint:gosec // bounded above
	}
	if rest != "" || text == "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 || strings.HasPrefix(rest, "+") {
			return 0, errAge
		}
		if d > math.MaxInt64-age {
			return 0, errors.New("is too long: at most 106751d are possible")
		}
		age += d
	}
	if age <= 0 {
		return 0, errors.New("must be longer than nothing")
	}
	return age, nil
}
