package report

import (
	"fmt"
	"math"
	"strconv"
)

// Unit says how a value is written.
type Unit int

// The units of the values that are shown. A ratio has none and is the default.
const (
	Ratio Unit = iota
	PerSecond
	Count
	Milliseconds
	Microseconds
	Nanoseconds
	Percent
	MiB // of a value in bytes
)

// format writes a value with the digits that a measurement can bear.
func (u Unit) format(value float64) string {
	switch u {
	case PerSecond:
		if value < 100 {
			return fmt.Sprintf("%.1f", value)
		}
		return thousands(significant(value))
	case Count:
		return thousands(value)
	case Nanoseconds:
		if value < 100 {
			return fmt.Sprintf("%.1f", value)
		}
		return thousands(significant(value))
	case Milliseconds, Percent:
		return fmt.Sprintf("%.2f", value)
	case Microseconds:
		return fmt.Sprintf("%.1f", value)
	case MiB:
		return fmt.Sprintf("%.1f", value/(1<<20))
	}
	if value >= 2 {
		return fmt.Sprintf("%.2f", value)
	}
	return fmt.Sprintf("%.3f", value)
}

// suffix is what the unit is called behind a value.
func (u Unit) suffix() string {
	return map[Unit]string{
		PerSecond: "/s", Milliseconds: " ms", Microseconds: " us", Nanoseconds: " ns", Percent: " %", MiB: " MiB",
	}[u]
}

// significant rounds to three digits.
func significant(value float64) float64 {
	if value == 0 {
		return 0
	}
	power := math.Pow(10, math.Floor(math.Log10(math.Abs(value)))-2)
	return math.Round(value/power) * power
}

// thousands writes the whole part of value in groups of three digits.
func thousands(value float64) string {
	digits := strconv.FormatFloat(math.Round(value), 'f', 0, 64)
	for at := len(digits) - 3; at > 0 && digits[at-1] != '-'; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}

// format writes median and spread.
func (s Spread) format(u Unit) string {
	switch {
	case s.Rounds == 0:
		return "–"
	case u.format(s.Min) == u.format(s.Max):
		return u.format(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", u.format(s.Median), u.format(s.Min), u.format(s.Max))
}
