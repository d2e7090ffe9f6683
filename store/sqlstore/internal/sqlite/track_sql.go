package sqlite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/outbox-go/outbox/store/track"
)

const (
	// trackPrefix begins the names of triggers, behind the outbox's own prefix.
	trackPrefix = "track_"

	// trackNote begins the comment in a trigger that has its definition.
	trackNote = "/* outbox track "

	// trackNow is the column's default for every SQLite that can write the table: that
	// of before 3.42 knows no unixepoch('subsec') and would insert NULL, which fails, or
	// under OR IGNORE loses the message.
	trackNow = `CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER) * 1000`

	// trackTriggerSQL names columns as "..." alone, so that SQLite finds all of them
	// when one is renamed, and [usedColumns] does. Without main a temporary table of
	// the same name would have the trigger.
	trackTriggerSQL = `CREATE TRIGGER main.{trigger} AFTER {op} ON {table} FOR EACH ROW BEGIN
	{note}
	INSERT INTO {message} (created_at, topic, key, type, payload)
	VALUES (` + trackNow + `, {topic}, {key}, {type}, {payload});
END;

`
)

func triggerName(base string, op track.Op) string { return base + "_" + string(op) }

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// writeTrack returns the statements that make the triggers of d.
func (n *Names) writeTrack(d *track.Definition, base string) (string, error) {
	note, err := json.Marshal(d)
	if err != nil {
		return "", err
	}
	// JSON may have any slash escaped; a comment must not end before its end.
	note = bytes.ReplaceAll(note, []byte("*/"), []byte(`*\/`))
	var b strings.Builder
	for _, op := range d.On {
		row := "NEW"
		if op == track.Delete {
			row = "OLD"
		}
		b.WriteString(strings.NewReplacer(
			"{trigger}", quote(triggerName(base, op)), "{op}", strings.ToUpper(string(op)), "{table}", quote(d.Table),
			"{note}", trackNote+string(note)+" */", "{message}", n.sql("{message}"), "{topic}", literal(d.TopicOf(op)), "{type}", literal(d.Table),
			"{key}", keyExpression(d, row), "{payload}", payloadExpression(d, row)).Replace(trackTriggerSQL))
	}
	return b.String(), nil
}

func writeDrops(b *strings.Builder, t *trackedTable) {
	for _, name := range t.triggers {
		fmt.Fprintf(b, "DROP TRIGGER IF EXISTS main.%s;\n\n", quote(name))
	}
}

// keySQL and fieldSQL are a column as text and as JSON. Any column can have values of
// any type. Bytes and infinities, which JSON has none of, are as PostgreSQL writes
// them. What || makes of a text is no JSON, which json_quote would take as it is. Older
// versions of json_quote, and CAST, write 15 digits of a number.
const (
	keySQL = `CASE typeof({c}) WHEN 'blob' THEN '\x' || lower(hex({c})) WHEN 'real' THEN ` + realSQL + ` ELSE CAST({c} AS TEXT) END`

	fieldSQL = `CASE typeof({c}) WHEN 'blob' THEN '"\\x' || lower(hex({c})) || '"' WHEN 'text' THEN json_quote({c} || '')
			WHEN 'real' THEN iif(abs({c}) = 9e999, json_quote(` + realSQL + `), ` + realSQL + `) ELSE json_quote({c}) END`

	realSQL = `CASE {c} WHEN 9e999 THEN 'Infinity' WHEN -9e999 THEN '-Infinity' ELSE printf('%!.17g', {c}) END`
)

func fill(text, row, column string) string {
	return strings.ReplaceAll(text, "{c}", row+"."+quote(column))
}

// keyExpression shortens what is too long to be sent, and cannot tell long keys of one
// length and begin apart: they are in one order.
func keyExpression(d *track.Definition, row string) string {
	parts := make([]string, len(d.Key))
	for i, column := range d.Key {
		parts[i] = fill(keySQL, row, column)
	}
	return "(SELECT iif(length(CAST(k AS BLOB)) > 512, substr(k, 1, 100) || ':' || length(CAST(k AS BLOB)), k)\n\t\tFROM (SELECT " +
		strings.Join(parts, " || ',' || ") + " AS k))"
}

// payloadExpression puts the object together piece by piece, since the number of
// arguments of json_object is limited, and in groups, as the depth of an expression is.
func payloadExpression(d *track.Definition, row string) string {
	const group = 100
	var groups []string
	separator := "{"
	for fields := range slices.Chunk(d.Fields, group) {
		pieces := make([]string, 0, 2*group)
		for _, column := range fields {
			name, _ := json.Marshal(column) // of a string it cannot fail
			pieces = append(pieces, literal(separator+string(name)+":")+"\n\t\t", fill(fieldSQL, row, column))
			separator = ","
		}
		groups = append(groups, "("+strings.Join(pieces, " || ")+")")
	}
	return strings.Join(groups, "\n\t\t|| ") + " || '}'"
}
