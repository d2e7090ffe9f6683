package bunoutbox

import (
	"regexp"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

var unquote = strings.NewReplacer(`"`, "", "`", "")

// tableOf returns the name of the query's table, with its schema if that is named.
func tableOf(query bun.Query) string {
	name, _, _ := strings.Cut(strings.TrimSpace(query.GetTableName()), " ") // an alias may follow
	return unquote.Replace(name)
}

// sameTable reports whether two names may be of one table: a schema that only one of
// them names may be that of the other.
func sameTable(a, b string) bool {
	return a == b || strings.HasSuffix(a, "."+b) || strings.HasSuffix(b, "."+a)
}

var (
	literals = regexp.MustCompile(`(?s)'[^']*'`)
	updating = regexp.MustCompile(`(?i)\bDO\s+UPDATE\b|\bON\s+DUPLICATE\s+KEY\b|^REPLACE\b`)
	noColumn = regexp.MustCompile(`(?i)\bRETURNING NULL, `)
)

// textOf returns a query's SQL, or nothing if it cannot be rendered, which bun will say.
func textOf(tx bun.Tx, query bun.Query) string {
	text, err := query.AppendQuery(schema.NewQueryGen(tx.Dialect()), nil)
	if err != nil {
		return ""
	}
	return string(text)
}

// updates reports whether the SQL of an INSERT, its values aside, may update: bun does
// not tell otherwise.
func updates(text string) bool { return updating.MatchString(literals.ReplaceAllString(text, "")) }

// returnsNull reports whether the SQL has a RETURNING NULL of the caller's and ours.
func returnsNull(text string) bool { return noColumn.MatchString(literals.ReplaceAllString(text, "")) }
