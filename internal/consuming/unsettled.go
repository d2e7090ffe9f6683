// Package consuming holds what the subscribers of several brokers have in common.
package consuming

import "sync"

// Unsettled counts messages that were passed on and not settled. The zero value is
// ready to use.
type Unsettled struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // closed when n is 0; nil unless somebody waits
}

// Add counts one more.
func (u *Unsettled) Add() {
	u.mu.Lock()
	u.n++
	u.mu.Unlock()
}

// Remove counts one less.
func (u *Unsettled) Remove() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.n--
	if u.n == 0 && u.zero != nil {
		close(u.zero)
		u.zero = nil
	}
}

// None returns a channel that is closed when nothing is unsettled. It is called
// when nothing more is added.
func (u *Unsettled) None() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.zero == nil {
		u.zero = make(chan struct{})
	}
	zero := u.zero
	if u.n == 0 {
		close(u.zero)
		u.zero = nil
	}
	return zero
}
