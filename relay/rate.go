package relay

// Rate is how many messages of the topics that match Pattern, an
// [outbox.ValidatePattern], are sent a second: together, not each.
type Rate struct {
	Pattern   string
	PerSecond float64 // 0.001 to 1,000,000
}

const (
	minRate = 0.001
	maxRate = 1_000_000
)
