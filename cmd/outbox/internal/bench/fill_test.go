package bench

import "testing"

func TestFillBatchIsBoundedByBytes(t *testing.T) {
	t.Parallel()
	for payload, want := range map[int]int{0: 1000, 250: 1000, 1 << 20: 16, 64 << 20: 1} {
		if got := fillBatch(payload); got != want {
			t.Errorf("of %d bytes %d messages, want %d", payload, got, want)
		}
	}
}
