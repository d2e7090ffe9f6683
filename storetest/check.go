package storetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/store"
)

func checkCases[Tx any]() []testCase[Tx] {
	return []testCase[Tx]{
		{name: "Check/Passes", run: checkPasses[Tx]},
		{name: "Check/CancelledContext", run: checkCancelled[Tx]},
		{name: "Check/NamesWhatIsMissing", run: checkMissing[Tx], unless: noMigrations[Tx]},
		{name: "Check/MigrationsAtTheSameTime", run: migrateConcurrently[Tx], unless: noMigrations[Tx]},
		{name: "Check/MigratingAgainKeepsAll", run: migrateAgain[Tx], unless: noMigrations[Tx]},
	}
}

func checkPasses[Tx any](e *env[Tx]) {
	e.ok(e.Store.Check(e.ctx), "check")
	e.ok(e.Open(e.t).Check(e.ctx), "check by the second instance")
}

func checkCancelled[Tx any](e *env[Tx]) {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	if err := e.Store.Check(ctx); !errors.Is(err, context.Canceled) {
		e.t.Fatalf("check with a cancelled context returned %v, want context.Canceled", err)
	}
}

func checkMissing[Tx any](e *env[Tx]) {
	empty, migrate := e.Empty(e.t)
	err := empty.Check(e.ctx)
	var missing *store.MissingError
	if !errors.As(err, &missing) {
		e.t.Fatalf("check of an empty database returned %v, want a MissingError", err)
	}
	for _, word := range e.Features.Missing {
		if !slices.ContainsFunc(missing.Missing, func(line string) bool { return strings.Contains(line, word) }) {
			e.t.Errorf("the error does not name %s:\n%v", word, err)
		}
	}
	if again := empty.Check(e.ctx); again == nil || again.Error() != err.Error() {
		e.t.Fatalf("check has changed the database: it now returns %v", again)
	}
	e.ok(migrate(e.ctx), "migrate")
	e.ok(empty.Check(e.ctx), "check after the migration")
}

func migrateConcurrently[Tx any](e *env[Tx]) {
	empty, migrate := e.Empty(e.t)
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { errs[i] = migrate(e.ctx) })
	}
	group.Wait()
	e.ok(errors.Join(errs...), "migrate")
	e.ok(empty.Check(e.ctx), "check")
}

func migrateAgain[Tx any](e *env[Tx]) {
	empty, migrate := e.Empty(e.t)
	e.ok(migrate(e.ctx), "migrate")
	ob := outbox.New(empty)
	e.ok(ob.InTx(e.ctx, func(tx Tx) error { return ob.Emit(e.ctx, tx, outbox.Event{Topic: "kept"}) }), "in tx")
	e.ok(migrate(e.ctx), "migrate again")
	e.Store = empty
	e.wantPending("kept")
}
