package sqlite

import (
	"context"
	"fmt"

	"github.com/outbox-go/outbox/store"
)

const dispatchSQL = `INSERT INTO {message} (route, {content})
SELECT ?, {content} FROM {message} WHERE position = ? AND id = ?`

// Dispatch replaces messages by copies for their routes.
func (s *Store) Dispatch(ctx context.Context, dispatches []store.Dispatch) error {
	if len(dispatches) == 0 {
		return nil
	}
	err := s.write(ctx, func(c runner) error {
		stmts := preparer{c: c}
		defer stmts.close()
		for _, d := range dispatches {
			for _, route := range d.Routes {
				if err := stmts.exec(ctx, s.text.dispatch, route, d.Ref.Position, d.Ref.ID); err != nil {
					return err
				}
			}
			if err := stmts.exec(ctx, s.text.settle, d.Ref.Position, d.Ref.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("dispatch %d messages: %w", len(dispatches), err)
	}
	s.Wake()
	return nil
}
