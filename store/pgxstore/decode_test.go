package pgxstore_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outbox-go/outbox/store"
	"github.com/outbox-go/outbox/store/pgxstore"
)

// TestReadDecodesAsScanningDoes reads rows of all kinds in the binary forms, which are
// decoded here, and in the simple protocol, where all is text that the driver scans.
func TestReadDecodesAsScanningDoes(t *testing.T) {
	t.Parallel()
	s, pool, schema := openStore(t, nil)
	exec(t, pool, `INSERT INTO `+pgx.Identifier{schema, "message"}.Sanitize()+`
		(topic, key, tenant, type, version, content_type, headers, payload, created_at, attempts, last_error, retry_at, deliver_at, expires_at)
		VALUES ('a', 'k', 't', 'type', 'v', 'text/plain', '{"a": "b", "": "", "e": "ü,: "}', '\x00ff', '1999-12-31 23:59:59.999999+00', 0, '', NULL, NULL, NULL),
		('a', NULL, '', '', '', '', '{}', '', '2026-01-02 03:04:05.6+02', 3, 'no', 'infinity', '2026-01-01', '2200-01-01'),
		('b', '', '', '', '', '', '{"n": 1, "o": {"x": ["y", "z"]}, "q": "a\"b\\c\n", "null": null}', '\x01', now(), 0, '', now() + interval '1 hour', '-infinity', 'infinity'),
		('b', '"', '', '', '', '', '{": ": ", ", "}": "{"}', '\x01', now(), 0, '', '2001-01-01', NULL, '1980-01-01')`)
	config := pool.Config()
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	simple, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	t.Cleanup(simple.Close)

	r := store.ReadRequest{Shards: store.FirstShards(64), Limit: 10}
	decoded, err := s.Read(t.Context(), r)
	must(t, err)
	scanned, err := newStore(t, simple, &pgxstore.Config{Schema: schema}).Read(t.Context(), r)
	must(t, err)
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

func near(a, b time.Duration) bool { return max(a-b, b-a) < time.Minute }
