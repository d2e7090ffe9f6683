package bench

import (
	"context"
	"encoding/json"
	"errors"
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
		if s.Min <= 0 || s.Median < s.Min || s.Max < s.Median || v.Ratio.Min <= 0 || v.RatioToCounterpart.Min <= 0 {
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
		"none", "none-batch", "none-one-batch", "emit", "emit-no-wake", "emit-armed",
		"intx", "intx-armed", "batch", "one-batch", "one-batch-armed",
	}
	if diff := cmp.Diff(want, emitNames(result)); diff != "" {
		t.Error(diff)
	}
	if result.WakeUpCost == nil || result.WakeUpCostArmed == nil || result.WakeUpCostInTxArmed == nil {
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
	ratio := EmitSpread{0.75, 0.75, 0.75}
	want := EmitVariant{Name: "emit", TransactionsPerSecond: EmitSpread{1500, 750, 3000}, Ratio: ratio, Counterpart: "none", RatioToCounterpart: ratio}
	if diff := cmp.Diff(want, result.Variants[1], cmp.AllowUnexported(EmitVariant{})); diff != "" {
		t.Error(diff)
	}
}

func TestEmitCostIsWhatTheRatioLacks(t *testing.T) {
	t.Parallel()
	r := &emitRun{variants: []emitVariant{{name: "with"}, {name: "without"}}}
	r.slices = [][]emitSlice{{{perSecond: 90}, {perSecond: 102}, {perSecond: 98}}, {{perSecond: 100}, {perSecond: 100}, {perSecond: 100}}}
	if diff := cmp.Diff(&EmitSpread{Median: 0.02, Min: -0.02, Max: 0.1}, r.cost("with", "without")); diff != "" {
		t.Error(diff)
	}
	if cost := r.cost("with", "other"); cost != nil {
		t.Errorf("of a variant that is none: %v", cost)
	}
}

// TestEmitShufflesRounds has each variant run once a round, and not always behind the same
// other one.
func TestEmitShufflesRounds(t *testing.T) {
	t.Parallel()
	bed := &noBed{}
	const rounds = 20
	r := &emitRun{EmitOptions: EmitOptions{Connections: 1}, bed: bed, slices: make([][]emitSlice, 3)}
	for _, name := range []string{"a", "b", "c"} {
		r.variants = append(r.variants, emitVariant{name: name, plain: name, mode: name, run: func(_ context.Context, tx emitTx) error {
			bed.orders++
			return tx.end()
		}})
	}
	orders := map[string]bool{}
	for round := range rounds {
		bed.modes = ""
		if err := r.round(t.Context(), round); err != nil {
			t.Fatal(err)
		}
		orders[bed.modes] = true
	}
	if len(r.slices[0]) != rounds || len(orders) <= len(r.variants) { // as many as a rotation has
		t.Errorf("%d slices of a variant in %d rounds, in the orders %v", len(r.slices[0]), rounds, orders)
	}
}

// noBed notes in which modes it was prepared, and counts its transactions.
type noBed struct {
	emitBed

	modes  string
	orders int
}

func (b *noBed) prepare(_ context.Context, mode string) error {
	b.modes += mode
	b.orders = 0
	return nil
}

// count leaves out the one that rolled back.
func (b *noBed) count(context.Context) (emitCount, error) {
	return emitCount{orders: b.orders - 1}, nil
}

func (b *noBed) clear(context.Context) error { return nil }

// TestEmitCommitsInEachSlice has no rate of nothing, whose ratios JSON cannot bear.
func TestEmitCommitsInEachSlice(t *testing.T) {
	t.Parallel()
	bed := &noBed{}
	r := &emitRun{EmitOptions: EmitOptions{Connections: 1}, bed: bed}
	v := emitVariant{name: "none", plain: "none", run: func(_ context.Context, tx emitTx) error {
		bed.orders++
		return tx.end()
	}}
	if s, err := r.slice(t.Context(), &v, 0); err != nil || s.committed != 1 || s.perSecond <= 0 {
		t.Errorf("got %+v and %v, want one commit", s, err)
	}
}

func TestEmitKeysOfJSON(t *testing.T) {
	t.Parallel()
	var cost EmitSpread
	var out strings.Builder
	result := EmitResult{Variants: []EmitVariant{{}}, WakeUpCost: &cost, WakeUpCostArmed: &cost, WakeUpCostInTxArmed: &cost}
	if err := result.WriteJSON(&out); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"committed", "conditions", "lost", "phantom", "rolled_back",
		"settings", "settings.connections", "settings.database", "settings.payload_bytes", "settings.rounds", "settings.slice_ms",
		"variants", "variants.counterpart", "variants.name", "variants.ratio", "variants.ratio_to_counterpart",
		"variants.transactions_per_second", "wake_up_cost", "wake_up_cost_armed", "wake_up_cost_intx_armed",
	}
	for _, spread := range []string{"variants.ratio", "variants.ratio_to_counterpart", "variants.transactions_per_second", "wake_up_cost", "wake_up_cost_armed", "wake_up_cost_intx_armed"} {
		want = append(want, spread+".max", spread+".median", spread+".min")
	}
	slices.Sort(want)
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

// deaf is a store that never says that it listens.
type deaf struct{ err error }

func (d deaf) Listen(ctx context.Context, _ func()) error {
	if d.err == nil {
		<-ctx.Done()
	}
	return d.err
}
func (deaf) Close() error { return nil }

func TestEmitDoesNotWaitForeverForItsListener(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped, broken := errors.New("stopped"), errors.New("broken")
	cancel(stopped)
	for want, c := range map[error]struct {
		ctx      context.Context
		listener deaf
	}{stopped: {ctx, deaf{}}, broken: {t.Context(), deaf{broken}}} {
		e := &emitPostgres{}
		if err := e.listen(c.ctx, c.listener); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		e.close()
	}
}
