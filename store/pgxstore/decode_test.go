package pgxstore_test

import (
	"context"
	"reflect"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// TestReadDecodesAsScanningDoes reads rows of all kinds in the binary forms, which are
// decoded here, and in the simple protocol, where all is text that the driver scans.
func TestReadDecodesAsScanningDoes(t *testing.T) {
	t.Parallel()
	_, pool, schema := openStore(t, nil)
	exec(t, pool, `INSERT INTO `+pgx.Identifier{schema, "message"}.Sanitize()+`
		(topic, key, tenant, type, version, content_type, headers, payload, created_at, attempts, last_error, retry_at, deliver_at, expires_at)
		VALUES ('a', 'k', 't', 'type', 'v', 'text/plain', '{"a": "b", "": "", "e": "ü,: "}', '\x00ff', '1999-12-31 23:59:59.999999+00', 0, '', NULL, NULL, NULL),
		('a', NULL, '', '', '', '', '{}', '', '2026-01-02 03:04:05.6+02', 3, 'no', 'infinity', '2026-01-01', '2200-01-01'),
		('b', '', '', '', '', '', '{"n": 1, "o": {"x": ["y", "z"]}, "q": "a\"b\\c\n", "null": null}', '\x01', now(), 0, '', now() + interval '1 hour', '-infinity', 'infinity'),
		('b', '"', '', '', '', '', '{": ": ", ", "}": "{"}', '\x01', now(), 0, '', '2001-01-01', NULL, '1980-01-01')`)
	r := store.ReadRequest{Shards: store.FirstShards(64), Limit: 10}
	read := func(mode pgx.QueryExecMode, scans bool) []store.Page {
		pool, payloads := scanningPool(t, pool, mode)
		pages, err := newStore(t, pool, &pgxstore.Config{Schema: schema}).Read(t.Context(), r)
		must(t, err)
		if n := payloads.Load(); n > 0 != scans {
			t.Errorf("in %v the driver scans %d times", mode, n)
		}
		return pages
	}
	decoded, scanned := read(pgx.QueryExecModeCacheStatement, false), read(pgx.QueryExecModeSimpleProtocol, true)
	got, want := decoded[0].Rows, scanned[0].Rows
	if len(got) != 4 || len(want) != 4 {
		t.Fatalf("%d rows are decoded and %d scanned, want 4", len(got), len(want))
	}
	for i := range got {
		// The clock goes on between the two.
		if near(got[i].RetryIn, want[i].RetryIn) && near(got[i].ExpiresIn, want[i].ExpiresIn) {
			got[i].RetryIn, got[i].ExpiresIn = want[i].RetryIn, want[i].ExpiresIn
		}
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("row %d is decoded as\n%+v\nand scanned as\n%+v", i, got[i], want[i])
		}
	}
	if got[1].RetryIn != store.Never || got[2].RetryIn < 59*time.Minute || got[3].RetryIn >= 0 {
		t.Errorf("rows wait %v, %v and %v, want for ever, an hour and no longer", got[1].RetryIn, got[2].RetryIn, got[3].RetryIn)
	}
	if got[0].Headers["e"] != "ü,: " || got[2].Headers["q"] != "a\"b\\c\n" || got[3].Headers[": "] != ", " || got[1].Headers != nil {
		t.Errorf("headers are %v, %v, %v and %v", got[0].Headers, got[1].Headers, got[2].Headers, got[3].Headers)
	}
}

// scanningPool returns a pool on the database of another one, and how often the driver
// was asked how to scan a payload.
func scanningPool(t *testing.T, other *pgxpool.Pool, mode pgx.QueryExecMode) (*pgxpool.Pool, *atomic.Int64) {
	t.Helper()
	config, payloads := other.Config(), new(atomic.Int64)
	config.ConnConfig.DefaultQueryExecMode = mode
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{Name: "bytea", OID: pgtype.ByteaOID, Codec: countingCodec{scans: payloads}})
		return nil
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool, payloads
}

// countingCodec counts how often it is asked how to scan.
type countingCodec struct {
	pgtype.ByteaCodec
	scans *atomic.Int64
}

func (c countingCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	c.scans.Add(1)
	return c.ByteaCodec.PlanScan(m, oid, format, target)
}

// TestShardsAreASetInEveryProtocol: the last shard alone is the least of all bigints.
func TestShardsAreASetInEveryProtocol(t *testing.T) {
	t.Parallel()
	_, pool, schema := openStore(t, nil)
	tables := pgx.Identifier{schema}.Sanitize()
	exec(t, pool, `INSERT INTO `+tables+`.message (topic, key, payload) SELECT 'a', i, '' FROM generate_series(1, 1000) AS i`)
	exec(t, pool, `INSERT INTO `+tables+`.dead (position, id, topic, key, tenant, type, version, content_type, headers, payload, created_at, route,
			attempts, last_error, reason, parked)
		SELECT position, id, topic, key, tenant, type, version, content_type, headers, payload, created_at, route, 1, 'no', 'rejected', true
		FROM `+tables+`.message`)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
		pool, _ := scanningPool(t, pool, mode)
		s := newStore(t, pool, &pgxstore.Config{Schema: schema})
		for _, shards := range []store.ShardSet{store.ShardSet(0).With(63), store.ShardSet(0).With(0).With(63), store.FirstShards(63), store.FirstShards(64)} {
			var want int
			must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM `+tables+`.message WHERE shard::text = ANY ($1)`, shardNames(shards)).Scan(&want))
			pages, err := s.Read(t.Context(), store.ReadRequest{Shards: shards, Limit: 1000})
			must(t, err)
			parked, err := s.Parked(t.Context(), shards)
			must(t, err)
			if want == 0 || len(pages[0].Rows) != want || len(parked) != want {
				t.Errorf("%v: of the shards %v %d messages and %d keys, want %d of both", mode, shards.Slice(), len(pages[0].Rows), len(parked), want)
			}
		}
	}
}

func shardNames(shards store.ShardSet) (names []string) {
	for _, shard := range shards.Slice() {
		names = append(names, strconv.Itoa(int(shard)))
	}
	return names
}

func near(a, b time.Duration) bool { return max(a-b, b-a) < time.Minute }
