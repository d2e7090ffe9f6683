package relay

import (
	"context"
	"time"

	"github.com/outbox-go/outbox/store"
)

// leaseLoop renews the leases five times in their life, and at once when shards can
// be given back. It owns nothing until its first claim succeeds.
func (r *run) leaseLoop(ctx context.Context) {
	var pause backoff
	armed := false
	for ctx.Err() == nil {
		claim, err := r.claim(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.config.Logger.Warn("relay could not renew its leases", "error", err)
				pause.sleep(ctx, nil)
			}
			continue
		}
		pause.reset()
		if !armed {
			// Whoever ran before may have left the notifications off.
			armed = r.arm.set(ctx, &r.config, true)
		}
		wait := r.config.LeaseTTL / 5
		if len(claim.Leases) < claim.Target {
			wait = min(wait, 200*time.Millisecond) // others are giving back
		}
		select {
		case <-ctx.Done():
		case <-r.queue.leaseWake:
		case <-time.After(wait):
		}
	}
}

func (r *run) claim(ctx context.Context) (store.Claim, error) {
	// One that hangs leaves time for another before the lease ends.
	ctx, cancel := context.WithTimeout(ctx, min(opTimeout, r.config.LeaseTTL/3))
	defer cancel()
	released, doubt := r.queue.releasable(), r.queue.doubts(false)
	// The lease runs from when the database answers; counted from before the
	// question it ends here first.
	deadline := time.Now().Add(r.config.LeaseTTL - r.config.LeaseTTL/10)
	claim, err := r.store.Claim(ctx, store.ClaimRequest{
		Owner: r.owner, Name: r.config.Name, TTL: r.config.LeaseTTL, Release: released, Most: r.config.MaxShards,
		Doubt: doubt, Rate: r.speed.of(r.stats.confirmed.Load()),
	})
	if err != nil {
		return claim, err
	}
	r.queue.toldOf(doubt, claim.Leases)
	if err := r.askPauses(ctx); err != nil {
		return claim, err
	}
	owned := r.queue.apply(claim, released, deadline)
	r.stats.leased(owned, claim.Relays)
	for _, hook := range r.hooks.lease {
		hook.Leased(owned, claim.Relays)
	}
	return claim, nil
}

// askPauses learns what is held back. If it once knows, it goes by that as long as
// it is told nothing else: an error must not cost the leases.
func (r *run) askPauses(ctx context.Context) error {
	list, err := r.store.Pauses(ctx)
	switch {
	case err == nil:
		r.queue.setPauses(list)
		r.pausesKnown = true
	case r.pausesKnown && ctx.Err() == nil:
		r.config.Logger.Warn("relay could not ask what is paused", "error", err)
	case !r.pausesKnown:
		return err
	}
	return nil
}

// speed measures a rate between calls.
type speed struct {
	count int64
	at    time.Time
}

// of returns by how much count grew a second since the last call.
func (s *speed) of(count int64) float64 {
	now := time.Now()
	was := *s
	*s = speed{count, now}
	if elapsed := now.Sub(was.at).Seconds(); !was.at.IsZero() && elapsed > 0 {
		return float64(count-was.count) / elapsed
	}
	return 0
}
