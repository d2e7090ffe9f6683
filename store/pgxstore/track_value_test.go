package pgxstore_test

import "testing"

// TestTrackedTextIsTheSameForAllSessions: whatever the settings of who writes.
func TestTrackedTextIsTheSameForAllSessions(t *testing.T) {
	t.Parallel()
	p := newShop(t, `CREATE TABLE {}.at (at timestamptz, n float8, b bytea, i interval, j jsonb, m numeric, d daterange, p point, c money, PRIMARY KEY (at, n, b))`)
	p.track("{}.at", nil)
	const insert = `INSERT INTO {}.at VALUES ('2030-01-31 08:00+00', 0.1::float8 + 0.2, '\x00ff', '1 day 2 hours', '{"a":[null]}', 12345678901234567890.10,
		'[2030-01-31,2030-02-01)', '(0.30000000000000004,1)', 1.5::numeric::money)`
	p.exec(`SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET bytea_output = 'escape'; SET intervalstyle = 'sql_standard'; SET search_path = pg_temp;
		SET extra_float_digits = 0; BEGIN; ` + insert + `; COMMIT; RESET ALL; DELETE FROM {}.at; ` + insert)
	const want = ` 2030-01-31T08:00:00+00:00,0.30000000000000004,\x00ff {"at":"2030-01-31T08:00:00+00:00","n":0.30000000000000004,"b":"\\x00ff","i":"P1DT2H",` +
		`"j":{"a": [null]},"m":12345678901234567890.10,"d":"[2030-01-31,2030-02-01)","p":"(0.30000000000000004,1)","c":"$1.50"}`
	p.want("any settings", "at.insert"+want, "at.delete"+want, "at.insert"+want)
	var pinned bool // other locales may not be there
	must(t, p.pool.QueryRow(t.Context(), `SELECT bool_or('lc_monetary=C' = ANY (proconfig)) FROM pg_proc WHERE pronamespace = $1::regnamespace`, p.sql("{outbox}")).Scan(&pinned))
	if !pinned {
		t.Error("money depends on the writer's lc_monetary")
	}
}

// TestTrackedJSONIsPublishedAsItIs: also such as only the type json takes, which must
// not keep anybody from writing or deleting it.
func TestTrackedJSONIsPublishedAsItIs(t *testing.T) {
	t.Parallel()
	p := newShop(t, `CREATE TABLE {}.docs (id int PRIMARY KEY, doc json); INSERT INTO {}.docs VALUES (0, '{"a":"\u0000"}')`)
	p.track("{}.docs", nil)
	for _, doc := range []string{`{"a":"\u0000"}`, `{"a":1e200000}`, `{"b":1, "a":2,  "b":3}`} {
		p.exec(`INSERT INTO {}.docs VALUES (1, '` + doc + `')`)
		p.exec(`DELETE FROM {}.docs WHERE id = 1`)
		p.want(doc, `docs.insert 1 {"id":1,"doc":`+doc+`}`, `docs.delete 1 {"id":1,"doc":`+doc+`}`)
	}
	p.exec(`DELETE FROM {}.docs`)
	p.want("from before", `docs.delete 0 {"id":0,"doc":{"a":"\u0000"}}`)
}
