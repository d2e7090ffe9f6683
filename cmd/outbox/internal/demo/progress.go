package demo

import (
	"fmt"
	"strings"
	"time"
)

const (
	progressWidth = 40
	progressEvery = 100 * time.Millisecond
)

// drawProgress draws a bar, if that is wanted, until the function that it returns
// is called, which removes it.
func (r *run) drawProgress() (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	began := time.Now()
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			fmt.Fprint(r.Progress, "\r"+bar(r.ledger.count(), r.Messages, time.Since(began))+"\x1b[K")
			select {
			case <-tick.C:
			case <-done:
				fmt.Fprint(r.Progress, "\r\x1b[K")
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// bar is the line for that many of all messages delivered.
func bar(delivered, all int, took time.Duration) string {
	share := min(float64(delivered)/float64(all), 1)
	full := int(share * progressWidth)
	return fmt.Sprintf("[%s%s] %3.0f %%  %s of %s delivered, %s/s",
		strings.Repeat("=", full), strings.Repeat(" ", progressWidth-full), share*100,
		thousands(delivered), thousands(all), thousands(int(float64(delivered)/max(took.Seconds(), 0.001))))
}
