package pgxstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// listenCheck is how often a silent listening connection is asked whether it
	// is still there.
	listenCheck   = 10 * time.Second
	listenTimeout = 5 * time.Second

	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// Wake tells the relays, those of this process at once and the others by a
// notification, that messages were committed. It does not wait.
func (s *Store) Wake() { s.notifier.Wake() }

func (s *Store) notify(ctx context.Context) {
	if _, err := s.pool.Exec(ctx, `SELECT pg_notify($1, $2)`, s.names.Channel, s.id); err != nil {
		s.config.Logger.Warn("outbox notification failed; relays find the messages by polling", "error", err)
	}
}

// Listen calls wake for commits in this process, through Wake and InTx, at once,
// and for those of others when the database notifies. It holds a connection of its
// own outside the pool, checks it while it is silent, and restores it.
func (s *Store) Listen(ctx context.Context, wake func()) error {
	stop := s.notifier.Listen(wake)
	defer stop()
	if s.config.NoListen {
		<-ctx.Done()
		return nil
	}
	backoff := minBackoff
	for {
		began := time.Now()
		err := s.listenOnce(ctx, wake)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		s.config.Logger.Warn("outbox listening connection lost; polling until it is back", "error", err, "retry_in", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rand.N(backoff)):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// listenOnce listens on one connection until it is lost.
func (s *Store) listenOnce(ctx context.Context, wake func()) error {
	config := s.pool.Config().ConnConfig
	if s.config.ListenURL != "" {
		var err error
		if config, err = pgx.ParseConfig(s.config.ListenURL); err != nil {
			return err
		}
	}
	dialCtx, cancel := context.WithTimeout(ctx, listenTimeout)
	conn, err := pgx.ConnectConfig(dialCtx, config)
	cancel()
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.names.Channel}.Sanitize()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		// Once more after each silence too: whatever was missed is found.
		wake()
		if err := s.await(ctx, conn); err != nil {
			return err
		}
	}
}

// await returns nil for a notification of others, or when the silent connection has
// answered that it lives. This store's own are of commits that its relays were told
// of already.
func (s *Store) await(ctx context.Context, conn *pgx.Conn) error {
	waitCtx, cancel := context.WithTimeout(ctx, listenCheck)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(waitCtx)
		if err == nil && n.Payload == s.id {
			continue
		}
		if err == nil || ctx.Err() != nil || waitCtx.Err() == nil {
			return err
		}
		break
	}
	pingCtx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	if err := conn.Ping(pingCtx); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}
