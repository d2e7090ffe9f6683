package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/outbox-go/outbox/store/track"
)

const (
	// trackPrefix begins the names of functions that track tables.
	trackPrefix = "track_"

	// maxIdentifier is the greatest length of a name in bytes.
	maxIdentifier = 63

	// trackPath has the names in the functions mean the server's own, whatever else
	// is called so.
	trackPath = "SET LOCAL search_path = pg_catalog, pg_temp;\n\n"

	// rowFunctionSQL makes key and payload of a row. Its body is parsed when it is
	// made, and knows columns by their numbers; the server inlines it. It is json, which
	// takes what a json column has as it is: jsonb refuses some of it, and then nobody
	// could write or delete the row. f.* is the fields even if there is a column f.
	// A key of any length could be sent by no relay, and be in no index of those that
	// failed. Who writes the table calls it, whatever new functions' default rights are.
	rowFunctionSQL = `CREATE OR REPLACE FUNCTION {function}(r {table}) RETURNS TABLE (key text, payload json)
LANGUAGE sql STABLE
BEGIN ATOMIC
	SELECT CASE WHEN octet_length(k.key) > 512 THEN left(k.key, 100) || ':' || encode(sha256(convert_to(k.key, 'UTF8')), 'hex') ELSE k.key END,
		(SELECT row_to_json(f.*) FROM (SELECT {fields}) AS f)
	FROM (SELECT {key} AS key) AS k;
END;

GRANT EXECUTE ON FUNCTION {function}({table}) TO PUBLIC;

`
	// trackFunctionSQL is called once for each statement and names neither table nor
	// columns, so that none can be renamed under it. r.* is the row even if there is a
	// column r, and the pragma keeps columns from hiding TG_OP. The settings make texts
	// of times the same whoever writes.
	trackFunctionSQL = `CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'iso_8601' SET bytea_output = 'hex'
SET extra_float_digits = 1 SET lc_monetary = 'C'
AS {body};

`
	trackBodySQL = `
#variable_conflict use_variable
BEGIN
	IF EXISTS (SELECT FROM changed) THEN -- an insert into the outbox wakes relays, also one of nothing
		INSERT INTO {message} (topic, key, type, payload)
		SELECT {topic}, t.key, {type}, convert_to(t.payload::text, 'UTF8')
		FROM changed AS r CROSS JOIN LATERAL {function}(r.*) AS t;
	END IF;
	RETURN NULL;
END
`
	trackTriggerSQL = `{create} {trigger} AFTER {op} ON {table} REFERENCING {side} TABLE AS changed
	FOR EACH STATEMENT EXECUTE FUNCTION {function}();

`
)

// takenSQL finds the names of functions that are in use. A trigger function of which
// the table was dropped is not.
const takenSQL = `SELECT DISTINCT p.proname::text FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = $1::name AND starts_with(p.proname, $2)
	AND NOT (p.pronargs = 0 AND coalesce(obj_description(p.oid, 'pg_proc'), '') LIKE '{%'
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgfoid = p.oid))`

// trackFunction returns the name of the table's functions, which it keeps.
func (c *Core) trackFunction(ctx context.Context, q Querier, subject *trackSubject, before *trackedTable) (string, error) {
	if before != nil {
		return before.Function, nil
	}
	rows, err := q.Query(ctx, takenSQL, c.names.Schema, c.names.Prefix+trackPrefix)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	taken := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return "", err
		}
		taken[name] = true
	}
	name := cutName(c.names.Prefix+trackPrefix+subject.Name, "")
	for n := 2; taken[name]; n++ {
		name = cutName(c.names.Prefix+trackPrefix+subject.Name, "_"+strconv.Itoa(n))
	}
	rows.Close()
	return name, rows.Err()
}

// cutName makes room for the suffix in an identifier.
func cutName(name, suffix string) string {
	end := min(len(name), maxIdentifier-len(suffix))
	for end < len(name) && !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end] + suffix
}

// trackTrigger returns the name of the table's trigger for op, which it keeps, and
// whether it has one. Other outboxes can track the table, and what others have made is
// not replaced, whatever it is called.
func (n *Names) trackTrigger(op track.Op, s *trackSubject, before *trackedTable) (name string, there bool) {
	if before != nil {
		if i := slices.IndexFunc(before.Triggers, func(t trackedTrigger) bool { return t.Op == op }); i >= 0 {
			return before.Triggers[i].Name, true
		}
	}
	base := n.Schema + "_" + n.Prefix + trackPrefix + string(op)
	name = endOfName(base)
	for i := 2; slices.Contains(s.Triggers, name); i++ {
		name = endOfName(base + "_" + strconv.Itoa(i))
	}
	return name, false
}

// endOfName makes an identifier of the end of name, which tells more than its begin.
func endOfName(name string) string {
	begin := max(0, len(name)-maxIdentifier)
	for !utf8.RuneStart(name[begin]) {
		begin++
	}
	return name[begin:]
}

// writeTrack returns the statements that have a table publish d, in place of what
// it has published before, if it has.
func (n *Names) writeTrack(s *trackSubject, d *track.Definition, function string, before *trackedTable) (plan trackPlan, err error) {
	note, err := json.Marshal(d)
	if err != nil {
		return plan, err
	}
	drops := superfluous(before, d.On)
	mode := "SHARE ROW EXCLUSIVE"
	if len(drops) > 0 { // which needs this; taken later, it could deadlock with who reads first and writes then
		mode = "ACCESS EXCLUSIVE"
	}
	plan.lock = "LOCK TABLE " + s.quoted() + " IN " + mode + " MODE;\n\n"
	name := Quote(n.Schema) + "." + Quote(function)
	fill := strings.NewReplacer("{function}", name, "{table}", s.quoted(), "{message}", n.SQL("{message}"),
		"{key}", keyExpression(d), "{fields}", fieldList(d), "{topic}", topicExpression(d), "{type}", Literal(d.Table)).Replace
	var b strings.Builder
	b.WriteString(trackPath + plan.lock + fill(rowFunctionSQL))
	b.WriteString(strings.NewReplacer("{function}", name, "{body}", dollarQuote(fill(trackBodySQL))).Replace(trackFunctionSQL))
	fmt.Fprintf(&b, "COMMENT ON FUNCTION %s() IS %s;\n\n", name, Literal(string(note)))
	for _, op := range d.On {
		n.writeTrigger(&b, op, s, before, name)
	}
	writeDrops(&b, s.quoted(), drops)
	plan.text = b.String()
	return plan, nil
}

// writeTrigger writes a statement that fails rather than replace a trigger of
// somebody else's.
func (n *Names) writeTrigger(b *strings.Builder, op track.Op, s *trackSubject, before *trackedTable, function string) {
	trigger, there := n.trackTrigger(op, s, before)
	create, side := "CREATE TRIGGER", "NEW"
	if there {
		create = "CREATE OR REPLACE TRIGGER"
	}
	if op == track.Delete {
		side = "OLD"
	}
	b.WriteString(strings.NewReplacer("{create}", create, "{trigger}", Quote(trigger), "{op}", strings.ToUpper(string(op)),
		"{table}", s.quoted(), "{side}", side, "{function}", function).Replace(trackTriggerSQL))
}

// superfluous returns the triggers of a table, if it has any, that are not those of ops.
func superfluous(before *trackedTable, ops []track.Op) (triggers []trackedTrigger) {
	if before == nil {
		return nil
	}
	for _, trigger := range before.Triggers {
		if !slices.Contains(ops, trigger.Op) {
			triggers = append(triggers, trigger)
		}
	}
	return triggers
}

// writeUntrack returns the statements that remove what [Names.writeTrack] has made.
func (n *Names) writeUntrack(t *trackedTable) string {
	var b strings.Builder
	writeDrops(&b, t.Quoted, t.Triggers)
	name := Quote(n.Schema) + "." + Quote(t.Function)
	fmt.Fprintf(&b, "DROP FUNCTION IF EXISTS %s(%s);\n\nDROP FUNCTION IF EXISTS %s();\n\n", name, t.Quoted, name)
	return b.String()
}

func writeDrops(b *strings.Builder, table string, triggers []trackedTrigger) {
	for _, trigger := range triggers {
		fmt.Fprintf(b, "DROP TRIGGER IF EXISTS %s ON %s;\n\n", Quote(trigger.Name), table)
	}
}

// keyExpression is the text that JSON has for the value, which does not depend on the
// session's settings, or NULL.
func keyExpression(d *track.Definition) string {
	parts := make([]string, len(d.Key))
	for i, column := range d.Key {
		parts[i] = "(json_build_array(r." + Quote(column) + ") ->> 0)"
	}
	return strings.Join(parts, " || ',' || ")
}

func fieldList(d *track.Definition) string {
	fields := make([]string, len(d.Fields))
	for i, column := range d.Fields {
		fields[i] = "r." + Quote(column) + " AS " + Quote(column)
	}
	return strings.Join(fields, ", ")
}

func topicExpression(d *track.Definition) string {
	var b strings.Builder
	b.WriteString("CASE TG_OP")
	for _, op := range d.On {
		fmt.Fprintf(&b, " WHEN '%s' THEN %s", strings.ToUpper(string(op)), Literal(d.TopicOf(op)))
	}
	return b.String() + " END"
}

// dollarQuote returns text as a literal that can be read.
func dollarQuote(text string) string {
	tag := "$track$"
	for i := 1; strings.Contains(text, tag); i++ {
		tag = "$track" + strconv.Itoa(i) + "$"
	}
	return tag + text + tag
}
