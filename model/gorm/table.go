package gormoutbox

import (
	"strings"

	"gorm.io/gorm"
)

var unquote = strings.NewReplacer(`"`, "", "`", "")

// tableOf returns the name of the statement's table, with its schema if that is named.
func tableOf(stmt *gorm.Statement) string {
	name := stmt.Table
	if stmt.TableExpr != nil { // "crm"."people", or what an alias follows
		name, _, _ = strings.Cut(strings.TrimSpace(stmt.TableExpr.SQL), " ")
	}
	return unquote.Replace(name)
}

// sameTable reports whether two names may be of one table: a schema that only one of
// them names may be that of the other.
func sameTable(a, b string) bool {
	return a == b || strings.HasSuffix(a, "."+b) || strings.HasSuffix(b, "."+a)
}
