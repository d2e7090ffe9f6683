package acceptance

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/outbox-go/outbox"
	"github.com/outbox-go/outbox/internal/testenv"
	"github.com/outbox-go/outbox/relay"
	"github.com/outbox-go/outbox/store/pgxstore"
	"github.com/outbox-go/outbox/store/sqlstore"
	"github.com/outbox-go/outbox/worker"
)

// database is an outbox, with business tables beside it, as one process of the
// application sees it.
type database interface {
	// inTx is Outbox.InTx, begin a transaction of the application's own.
	inTx(fn func(tx transaction) error) error
	begin() (transaction, error)
	wake()
	// handleTx is worker.HandleTx with the database as inbox.
	handleTx(w *worker.Worker, pattern string, fn txHandler, opts ...worker.HandleOption)
	// impatient is the same database on connections that wait for a lock for
	// 100 ms only.
	impatient(t testing.TB) database

	databaseURL() string // for openStore
	table() string       // that messages are in
	sql() *sql.DB        // another session, that knows nothing of our code
}

// txHandler is a handler with a transaction of either database.
type txHandler func(ctx context.Context, tx transaction, d *worker.Delivery[order]) error

// transaction is a business transaction.
type transaction interface {
	emit(events ...outbox.Event) error
	emitWith(ctx context.Context, events ...outbox.Event) error
	exec(query string, args ...any) error
	query(each func(scan scan) error, query string, args ...any) error
	commit() error
	rollback() error
}

// scan takes the columns of a row.
type scan func(into ...any) error

// businessTables are the same in both dialects. The line's reference is looked at
// only by the commit, so that a commit can fail.
const businessTables = `
CREATE TABLE counters (key TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE orders (id TEXT PRIMARY KEY, key TEXT NOT NULL, n INTEGER NOT NULL);
CREATE TABLE lines (id TEXT PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED);`

// openStore opens the store at a URL as another process would: on connections of
// its own. The scheme is postgres or sqlite.
func openStore(url string) (s relay.Store, closeIt func(), err error) {
	if file, ok := strings.CutPrefix(url, "sqlite:"); ok {
		db, err := sql.Open("sqlite", sqlstore.SQLiteDSN(file))
		if err != nil {
			return nil, nil, err
		}
		return sqlstore.New(db, sqlstore.SQLite, nil), func() { _ = db.Close() }, nil
	}
	return openPostgres(url, &pgxstore.Config{Logger: quiet()})
}

func openPostgres(url string, config *pgxstore.Config) (*pgxstore.Store, func(), error) {
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, nil, err
	}
	c.MaxConns = 6
	pool, err := pgxpool.NewWithConfig(context.Background(), c)
	if err != nil {
		return nil, nil, err
	}
	s := pgxstore.New(pool, config)
	return s, func() {
		_ = s.Close()
		pool.Close()
	}, nil
}

// openSQL is a session by database/sql, which closes with the test.
func openSQL(t testing.TB, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// postgres is a database of its own on the shared server.
type postgres struct {
	address string
	pool    *pgxpool.Pool
	store   *pgxstore.Store
	outbox  *outbox.Outbox[pgx.Tx]
	other   *sql.DB
}

func newPostgres(t testing.TB) *postgres {
	t.Helper()
	p := postgresAt(t, testenv.Postgres(t).NewDatabase(t))
	must(t, p.store.Migrate(t.Context()))
	execute(t, p, businessTables)
	return p
}

func postgresAt(t testing.TB, url string) *postgres {
	t.Helper()
	db, closeDB, err := openDatabase(url)
	must(t, err)
	t.Cleanup(closeDB)
	return db.(*postgres)
}

// openDatabase opens the database at a URL, without its tables.
func openDatabase(url string) (db database, closeIt func(), err error) {
	if file, ok := strings.CutPrefix(url, "sqlite:"); ok {
		return openSQLite(file, patientSQLite)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, nil, err
	}
	config.MaxConns = 10
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, nil, err
	}
	other, err := sql.Open("pgx", url)
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	s := pgxstore.New(pool, &pgxstore.Config{Logger: quiet()})
	closeIt = func() {
		_, _ = s.Close(), other.Close()
		pool.Close()
	}
	return &postgres{address: url, pool: pool, store: s, outbox: outbox.New(s), other: other}, closeIt, nil
}

// patientSQLite is the wait for a lock that SQLiteDSN asks for.
const patientSQLite = "busy_timeout(10000)"

func openSQLite(file, wait string) (*sqlite, func(), error) {
	dsn := strings.Replace(sqlstore.SQLiteDSN(file), patientSQLite, wait, 1) + "&_pragma=foreign_keys(1)"
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, nil, err
	}
	other, err := sql.Open("sqlite", dsn)
	if err != nil {
		_ = db.Close()
		return nil, nil, err
	}
	s := sqlstore.New(db, sqlstore.SQLite, nil)
	return &sqlite{file: file, db: db, store: s, outbox: outbox.New(s), other: other}, func() { _, _ = db.Close(), other.Close() }, nil
}

func (p *postgres) impatient(t testing.TB) database {
	t.Helper()
	u, err := url.Parse(p.address)
	must(t, err)
	q := u.Query()
	q.Set("lock_timeout", "100")
	u.RawQuery = q.Encode()
	return postgresAt(t, u.String())
}

func (p *postgres) handleTx(w *worker.Worker, pattern string, fn txHandler, opts ...worker.HandleOption) {
	worker.HandleTx(w, p.store, pattern, func(ctx context.Context, tx pgx.Tx, d *worker.Delivery[order]) error {
		return fn(ctx, &postgresTx{tx, p.outbox}, d)
	}, opts...)
}

func (p *postgres) databaseURL() string { return p.address }
func (p *postgres) table() string       { return "outbox.message" }
func (p *postgres) sql() *sql.DB        { return p.other }
func (p *postgres) wake()               { p.outbox.Wake() }

func (p *postgres) inTx(fn func(tx transaction) error) error {
	return p.outbox.InTx(context.Background(), func(tx pgx.Tx) error { return fn(&postgresTx{tx, p.outbox}) })
}

func (p *postgres) begin() (transaction, error) {
	tx, err := p.pool.Begin(context.Background())
	return &postgresTx{tx, p.outbox}, err
}

type postgresTx struct {
	tx     pgx.Tx
	outbox *outbox.Outbox[pgx.Tx]
}

func (p *postgresTx) emit(events ...outbox.Event) error {
	return p.emitWith(context.Background(), events...)
}

func (p *postgresTx) emitWith(ctx context.Context, events ...outbox.Event) error {
	return p.outbox.Emit(ctx, p.tx, events...)
}

func (p *postgresTx) exec(query string, args ...any) error {
	_, err := p.tx.Exec(context.Background(), query, args...)
	return err
}

func (p *postgresTx) query(each func(scan scan) error, query string, args ...any) error {
	rows, err := p.tx.Query(context.Background(), query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (p *postgresTx) commit() error   { return p.tx.Commit(context.Background()) }
func (p *postgresTx) rollback() error { return p.tx.Rollback(context.Background()) }

// sqlite is a file.
type sqlite struct {
	file   string
	db     *sql.DB
	store  *sqlstore.Store
	outbox *outbox.Outbox[*sql.Tx]
	other  *sql.DB
}

func newSQLite(t testing.TB) *sqlite {
	t.Helper()
	q := sqliteAt(t, filepath.Join(t.TempDir(), "app.db"), patientSQLite)
	must(t, q.store.Migrate(t.Context()))
	execute(t, q, businessTables)
	return q
}

func sqliteAt(t testing.TB, file, wait string) *sqlite {
	t.Helper()
	db, closeDB, err := openSQLite(file, wait)
	must(t, err)
	t.Cleanup(closeDB)
	return db
}

func (q *sqlite) impatient(t testing.TB) database {
	t.Helper()
	return sqliteAt(t, q.file, "busy_timeout(100)")
}

func (q *sqlite) handleTx(w *worker.Worker, pattern string, fn txHandler, opts ...worker.HandleOption) {
	worker.HandleTx(w, q.store, pattern, func(ctx context.Context, tx *sql.Tx, d *worker.Delivery[order]) error {
		return fn(ctx, &sqliteTx{tx, q.outbox}, d)
	}, opts...)
}

func (q *sqlite) databaseURL() string { return "sqlite:" + q.file }
func (q *sqlite) table() string       { return "outbox_message" }
func (q *sqlite) sql() *sql.DB        { return q.other }
func (q *sqlite) wake()               { q.outbox.Wake() }

func (q *sqlite) inTx(fn func(tx transaction) error) error {
	return q.outbox.InTx(context.Background(), func(tx *sql.Tx) error { return fn(&sqliteTx{tx, q.outbox}) })
}

func (q *sqlite) begin() (transaction, error) {
	tx, err := q.db.BeginTx(context.Background(), nil)
	return &sqliteTx{tx, q.outbox}, err
}

type sqliteTx struct {
	tx     *sql.Tx
	outbox *outbox.Outbox[*sql.Tx]
}

func (q *sqliteTx) emit(events ...outbox.Event) error {
	return q.emitWith(context.Background(), events...)
}

func (q *sqliteTx) emitWith(ctx context.Context, events ...outbox.Event) error {
	return q.outbox.Emit(ctx, q.tx, events...)
}

func (q *sqliteTx) exec(query string, args ...any) error {
	_, err := q.tx.ExecContext(context.Background(), query, args...)
	return err
}

func (q *sqliteTx) query(each func(scan scan) error, query string, args ...any) error {
	rows, err := q.tx.QueryContext(context.Background(), query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (q *sqliteTx) commit() error   { return q.tx.Commit() }
func (q *sqliteTx) rollback() error { return q.tx.Rollback() }

func execute(t testing.TB, db database, query string, args ...any) {
	t.Helper()
	if _, err := db.sql().ExecContext(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// pendingRow is a message that is still in the outbox.
type pendingRow struct {
	id, topic, lastError string
	attempts             int
}

func pending(t testing.TB, db database) []pendingRow {
	t.Helper()
	query := fmt.Sprintf(`SELECT CAST(id AS TEXT), topic, last_error, attempts FROM %s ORDER BY position`, db.table())
	rows, err := db.sql().QueryContext(context.Background(), query)
	must(t, err)
	defer rows.Close()
	var list []pendingRow
	for rows.Next() {
		var r pendingRow
		must(t, rows.Scan(&r.id, &r.topic, &r.lastError, &r.attempts))
		list = append(list, r)
	}
	must(t, rows.Err())
	return list
}

// order is a business row, and the payload of the message that tells of it. N
// counts the orders of Key.
type order struct {
	ID  string
	Key string
	N   int
}

// committedOrders are those of the business table: what must be delivered.
func committedOrders(t testing.TB, db database) map[order]bool {
	t.Helper()
	rows, err := db.sql().QueryContext(context.Background(), `SELECT id, key, n FROM orders`)
	must(t, err)
	defer rows.Close()
	orders := map[order]bool{}
	for rows.Next() {
		var o order
		must(t, rows.Scan(&o.ID, &o.Key, &o.N))
		orders[o] = true
	}
	must(t, rows.Err())
	return orders
}

const orderPlaced = "order.placed"

// place writes an order and emits its message.
func place(tx transaction, id, key string) error { return placeAll(tx, order{ID: id, Key: key}) }

// placeAll writes orders of different keys, and emits their messages with one call.
// The counters' rows are locked until the end of the transaction, so that N is the
// order of the commits.
func placeAll(tx transaction, orders ...order) error {
	keys := make([]any, len(orders))
	for i, o := range orders {
		keys[i] = o.Key
	}
	n := map[string]int{}
	err := tx.query(func(scan scan) error {
		var key string
		var count int
		err := scan(&key, &count)
		n[key] = count
		return err
	}, `INSERT INTO counters (key, n) VALUES `+placeholders(len(orders), "($%d, 1)")+`
		ON CONFLICT (key) DO UPDATE SET n = counters.n + 1 RETURNING key, n`, keys...)
	if err != nil {
		return err
	}
	var values []any
	events := make([]outbox.Event, len(orders))
	for i, o := range orders {
		o.N = n[o.Key]
		values = append(values, o.ID, o.Key, o.N)
		events[i] = outbox.Event{Topic: orderPlaced, Key: o.Key, Payload: o}
	}
	if err := tx.exec(`INSERT INTO orders (id, key, n) VALUES `+placeholders(len(orders), "($%d, $%d, $%d)"), values...); err != nil {
		return err
	}
	return tx.emit(events...)
}

// placeholders returns n rows of VALUES with the parameters numbered through.
func placeholders(n int, row string) string {
	var b strings.Builder
	parameter := 0
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		numbers := make([]any, strings.Count(row, "%d"))
		for j := range numbers {
			parameter++
			numbers[j] = parameter
		}
		fmt.Fprintf(&b, row, numbers...)
	}
	return b.String()
}
