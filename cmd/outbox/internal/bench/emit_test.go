package bench

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outbox-go/outbox/cmd/outbox/internal/scratch"
	"github.com/outbox-go/outbox/internal/testenv"
)

// emitGood runs all variants, each of which must commit something and lose nothing.
func emitGood(t *testing.T, o EmitOptions) *EmitResult {
	t.Helper()
	o.Rounds, o.Slice, o.Payload, o.Logger = 2, 20*time.Millisecond, 100, testLogger(t)
	result, err := Emit(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := result.Err(); err != nil {
		t.Error(err)
	}
	if result.Committed == 0 || result.RolledBack != o.Connections*len(result.Variants)*3 {
		t.Errorf("%d committed and %d rolled back, want some, and one on each connection in each slice", result.Committed, result.RolledBack)
	}
	for _, v := range result.Variants {
		s := v.TransactionsPerSecond
		if s.Min <= 0 || s.Median < s.Min || s.Max < s.Median || v.Ratio <= 0 || v.RatioToCounterpart <= 0 {
			t.Errorf("got %+v", v)
		}
	}
	return result
}

func emitNames(result *EmitResult) (names []string) {
	for _, v := range result.Variants {
		names = append(names, v.Name)
	}
	return names
}

func TestEmitOnSQLiteLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	result := emitGood(t, EmitOptions{Connections: 1})
	if diff := cmp.Diff([]string{"none", "emit", "none-normal", "emit-normal"}, emitNames(result)); diff != "" {
		t.Error(diff)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestEmitOnPostgresLeavesNothing(t *testing.T) {
	t.Parallel()
	pg := testenv.Postgres(t)
	url := pg.NewDatabase(t)
	result := emitGood(t, EmitOptions{DatabaseURL: url, Connections: 3})
	want := []string{
		"none", "none-batch", "none-one-batch", "emit", "emit-no-wake", "emit-armed", "emit-armed-no-wake",
		"intx", "intx-armed", "batch", "one-batch", "one-batch-armed",
	}
	if diff := cmp.Diff(want, emitNames(result)); diff != "" {
		t.Error(diff)
	}
	if result.WakeUpCost == nil || result.WakeUpCostArmed == nil {
		t.Error("the cost of the wake-up is missing")
	}
	if schemas := pg.Exec(url, `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'outbox%'`); len(schemas) > 0 {
		t.Errorf("schemas left behind: %v", schemas)
	}
}

func TestEmitFindsWhatIsLostAndWhatIsPhantom(t *testing.T) {
	t.Parallel()
	with, without := emitVariant{name: "emit", plain: "none"}, emitVariant{name: "none", plain: "none"}
	for name, c := range map[string]struct {
		variant       emitVariant
		count         emitCount
		lost, phantom int
	}{
		"all there":          {with, emitCount{orders: 10, messages: 10}, 0, 0},
		"none without":       {without, emitCount{orders: 10, alone: 10}, 0, 0},
		"a message is lost":  {with, emitCount{orders: 10, messages: 9, alone: 1}, 1, 0},
		"one too many":       {with, emitCount{orders: 10, messages: 11, alone: 1}, 0, 1},
		"one for another":    {with, emitCount{orders: 10, messages: 10, alone: 2}, 1, 1},
		"one where none was": {without, emitCount{orders: 10, messages: 1, alone: 10}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &emitRun{}
			if err := r.judge(&c.variant, 10, c.count); err != nil {
				t.Fatal(err)
			}
			result := EmitResult{Lost: r.lost, Phantom: r.phantom}
			if r.lost != c.lost || r.phantom != c.phantom || (result.Err() == nil) != (c.lost+c.phantom == 0) {
				t.Errorf("%d lost, %d phantom, %v", r.lost, r.phantom, result.Err())
			}
		})
	}
	if err := (&emitRun{}).judge(&with, 10, emitCount{orders: 9, messages: 9}); err == nil {
		t.Error("a business row is missing, and nobody says so")
	}
}

// A store that forgets a message, or writes it outside the transaction, is found out
// in what the tables have.
func TestEmitLooksIntoTheTables(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sql           string
		lost, phantom int
	}{
		"lost":    {`DELETE FROM outbox_message WHERE position = (SELECT min(position) FROM outbox_message)`, 1, 0},
		"phantom": {`INSERT INTO outbox_message (id, topic, key, payload, created_at) VALUES ('00000000-0000-7000-8000-000000000000', 'x', '-1', x'00', 0)`, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bed := &brokenBed{emitSQLite: emitSQLiteBed(t), sql: c.sql}
			r := &emitRun{EmitOptions: EmitOptions{Connections: 1}, bed: bed}
			v := bed.variants()[1]
			if _, err := r.slice(t.Context(), &v, 10*time.Millisecond); err != nil {
				t.Fatal(err)
			}
			if r.lost != c.lost || r.phantom != c.phantom {
				t.Errorf("%d lost, %d phantom, want %d and %d", r.lost, r.phantom, c.lost, c.phantom)
			}
		})
	}
}

// brokenBed changes the tables before they are looked at.
type brokenBed struct {
	*emitSQLite
	sql string
}

func (b *brokenBed) count(ctx context.Context) (emitCount, error) {
	if _, err := b.database.SQLite.DB.ExecContext(ctx, b.sql); err != nil {
		return emitCount{}, err
	}
	return b.emitSQLite.count(ctx)
}

func TestEmitComparesWithinARound(t *testing.T) {
	t.Parallel()
	r := &emitRun{variants: []emitVariant{{name: "none", plain: "none"}, {name: "emit", plain: "none"}}}
	// The machine halves its speed from round to round; the ratio does not change.
	r.slices = [][]emitSlice{{{perSecond: 4000}, {perSecond: 2000}, {perSecond: 1000}}, {{perSecond: 3000}, {perSecond: 1500}, {perSecond: 750}}}
	result := r.result(Conditions{})
	want := EmitVariant{Name: "emit", TransactionsPerSecond: EmitSpread{1500, 750, 3000}, Ratio: 0.75, Counterpart: "none", RatioToCounterpart: 0.75}
	if diff := cmp.Diff(want, result.Variants[1], cmp.AllowUnexported(EmitVariant{})); diff != "" {
		t.Error(diff)
	}
}

func TestEmitKeysOfJSON(t *testing.T) {
	t.Parallel()
	cost := 0.01
	var out strings.Builder
	result := EmitResult{Variants: []EmitVariant{{}}, WakeUpCost: &cost, WakeUpCostArmed: &cost}
	if err := result.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"committed", "conditions", "lost", "phantom", "rolled_back",
		"settings", "settings.connections", "settings.database", "settings.payload_bytes", "settings.rounds", "settings.slice_ms",
		"variants", "variants.counterpart", "variants.name", "variants.ratio", "variants.ratio_to_counterpart",
		"variants.transactions_per_second", "variants.transactions_per_second.max", "variants.transactions_per_second.median",
		"variants.transactions_per_second.min", "wake_up_cost", "wake_up_cost_armed",
	}
	if diff := cmp.Diff(want, keysOfJSON(t, out.String(), "conditions")); diff != "" {
		t.Error(diff)
	}
}

// keysOfJSON returns the keys of an object, sorted, with those of the objects in it but
// for the ones of that name.
func keysOfJSON(t *testing.T, text, except string) (keys []string) {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, value any)
	walk = func(prefix string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for key, inner := range value {
				keys = append(keys, prefix+key)
				if key != except {
					walk(prefix+key+".", inner)
				}
			}
		case []any:
			for _, inner := range value {
				walk(prefix, inner)
			}
		}
	}
	walk("", value)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// testLogger writes to the test's log.
func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// emitSQLiteBed returns a bed with its tables.
func emitSQLiteBed(t *testing.T) *emitSQLite {
	t.Helper()
	own, err := scratch.New("outbox_bench")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	database, err := own.Database(t.Context(), "", 0, testLogger(t))
	if err != nil {
		t.Fatal(err)
	}
	bed := &emitSQLite{database: database, payload: []byte("payload")}
	if err := bed.setUp(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	return bed
}
