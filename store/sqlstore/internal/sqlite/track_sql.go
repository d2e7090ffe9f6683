package sqlite

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/outbox-go/outbox/store/track"
)

const (
	// trackPrefix begins the names of triggers, behind the outbox's own prefix.
	trackPrefix = "track_"

	// trackNote begins the comment in a trigger that has its definition.
	trackNote = "/* outbox track "

	// trackTriggerSQL names columns as "..." alone, so that SQLite finds all of them
	// when one is renamed, and [usedColumns] does.
	trackTriggerSQL = `CREATE TRIGGER {trigger} AFTER {op} ON {table} FOR EACH ROW BEGIN
	{note}
	INSERT INTO {message} (topic, key, type, payload)
	VALUES ({topic}, {key}, {type}, {payload});
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
		fmt.Fprintf(b, "DROP TRIGGER %s;\n\n", quote(name))
	}
}

// value has bytes as text, as PostgreSQL writes them in JSON: any column can have
// some, and JSON none.
func value(row, column string) string {
	reference := row + "." + quote(column)
	return fmt.Sprintf(`iif(typeof(%s) = 'blob', '\x' || lower(hex(%s)), %s)`, reference, reference, reference)
}

func keyExpression(d *track.Definition, row string) string {
	parts := make([]string, len(d.Key))
	for i, column := range d.Key {
		parts[i] = "CAST(" + value(row, column) + " AS TEXT)"
	}
	return strings.Join(parts, " || ',' || ")
}

// payloadExpression puts the object together piece by piece: the number of arguments
// of json_object is limited.
func payloadExpression(d *track.Definition, row string) string {
	var b strings.Builder
	separator := "{"
	for _, column := range d.Fields {
		name, _ := json.Marshal(column) // of a string it cannot fail
		b.WriteString(literal(separator+string(name)+":") + "\n\t\t|| json_quote(" + value(row, column) + ") || ")
		separator = ","
	}
	return b.String() + "'}'"
}
