package config

import (
	"testing"
	"time"
)

func TestParseAge(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "1d": day, "1d12h": 36 * time.Hour, "36h": 36 * time.Hour, "1d1h1m1s1ms": day + time.Hour + time.Minute + time.Second + time.Millisecond,
		"0d1s": time.Second, "1.5h": 90 * time.Minute, "007d": 7 * day, "106751d": 106751 * day,
	} {
		if got, err := ParseAge(text); got != want || err != nil {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "d", "0", "0d", "0s", "-1d", "-1h", "1d-1h", "+1d", "1d+1h", "1.5d", "1d2d", "30", "30 d", "1w", "12h1d", "x",
		"106752d", "106751d47h", "99999999999999999999d", "1h-2h",
	} {
		if got, err := ParseAge(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}
