package acceptance

import (
	"context"
	"database/sql"
	"fmt"
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
)

// database is an outbox, with business tables beside it, as one process of the
// application sees it.
type database interface {
	// inTx is Outbox.InTx, begin a transaction of the application's own.
	inTx(fn func(tx transaction) error) error
	begin() (transaction, error)
	wake()

	databaseURL() string // for openStore
	table() string       // that messages are in
	sql() *sql.DB        // another session, that knows nothing of our code
}

// transaction is a business transaction.
type transaction interface {
	emit(events ...outbox.Event) error
	exec(query string, args ...any) error
	number(query string, args ...any) (int, error) // the only column of the only row
	commit() error
	rollback() error
}

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
	outbox  *outbox.Outbox[pgx.Tx]
	other   *sql.DB
}

func newPostgres(t testing.TB) *postgres {
	t.Helper()
	url := testenv.Postgres(t).NewDatabase(t)
	pool := openPool(t, url, 10)
	s := pgxstore.New(pool, &pgxstore.Config{Logger: quiet()})
	t.Cleanup(func() { _ = s.Close() })
	must(t, s.Migrate(t.Context()))
	p := &postgres{address: url, pool: pool, outbox: outbox.New(s), other: openSQL(t, "pgx", url)}
	execute(t, p, businessTables)
	return p
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
	return p.outbox.Emit(context.Background(), p.tx, events...)
}

func (p *postgresTx) exec(query string, args ...any) error {
	_, err := p.tx.Exec(context.Background(), query, args...)
	return err
}

func (p *postgresTx) number(query string, args ...any) (n int, err error) {
	err = p.tx.QueryRow(context.Background(), query, args...).Scan(&n)
	return n, err
}

func (p *postgresTx) commit() error   { return p.tx.Commit(context.Background()) }
func (p *postgresTx) rollback() error { return p.tx.Rollback(context.Background()) }

// sqlite is a file.
type sqlite struct {
	file   string
	db     *sql.DB
	outbox *outbox.Outbox[*sql.Tx]
	other  *sql.DB
}

func newSQLite(t testing.TB) *sqlite {
	t.Helper()
	file := filepath.Join(t.TempDir(), "app.db")
	dsn := sqlstore.SQLiteDSN(file) + "&_pragma=foreign_keys(1)"
	db := openSQL(t, "sqlite", dsn)
	s := sqlstore.New(db, sqlstore.SQLite, nil)
	must(t, s.Migrate(t.Context()))
	q := &sqlite{file: file, db: db, outbox: outbox.New(s), other: openSQL(t, "sqlite", dsn)}
	execute(t, q, businessTables)
	return q
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
	return q.outbox.Emit(context.Background(), q.tx, events...)
}

func (q *sqliteTx) exec(query string, args ...any) error {
	_, err := q.tx.ExecContext(context.Background(), query, args...)
	return err
}

func (q *sqliteTx) number(query string, args ...any) (n int, err error) {
	err = q.tx.QueryRowContext(context.Background(), query, args...).Scan(&n)
	return n, err
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

// place writes an order and emits its message. The counter's row is locked until
// the end of the transaction, so that N is the order of the commits.
func place(tx transaction, id, key string) error {
	n, err := tx.number(`INSERT INTO counters (key, n) VALUES ($1, 1)
		ON CONFLICT (key) DO UPDATE SET n = counters.n + 1 RETURNING n`, key)
	if err != nil {
		return err
	}
	o := order{ID: id, Key: key, N: n}
	if err := tx.exec(`INSERT INTO orders (id, key, n) VALUES ($1, $2, $3)`, o.ID, o.Key, o.N); err != nil {
		return err
	}
	return tx.emit(outbox.Event{Topic: orderPlaced, Key: key, Payload: o})
}
