package gormoutbox

import (
	"database/sql"
	"fmt"

	"gorm.io/gorm"
)

// Tx returns the transaction that tx is in, for Outbox.Emit: what is emitted with it
// commits or rolls back with what GORM writes. It is an error if tx is in none.
func Tx(tx *gorm.DB) (*sql.Tx, error) {
	found, err := txOf(tx.Statement)
	if err != nil {
		return nil, fmt.Errorf("gormoutbox: %w: emit in gorm.DB.Transaction, or behind Begin", err)
	}
	return found, nil
}
