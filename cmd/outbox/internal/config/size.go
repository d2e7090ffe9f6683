package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
)

// units from the longest ending to the shortest, so that each is found whole.
var units = []struct {
	name  string
	bytes int
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1},
}

// parseSize reads a number of bytes, such as "32MiB" or "65536".
func parseSize(text string) (int, error) {
	for _, unit := range units {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(digits))
		if err == nil && n >= 0 && n <= math.MaxInt/unit.bytes {
			return n * unit.bytes, nil
		}
		break
	}
	return 0, errors.New("is not a size, such as 32MiB, 500KB or 65536")
}
