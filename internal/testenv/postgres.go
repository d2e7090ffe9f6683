package testenv

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// PostgresOptions say how a private PostgreSQL differs from the shared one.
type PostgresOptions struct {
	// Settings are added to postgresql.conf, the values unquoted. They win over the harness's own.
	Settings map[string]string
}

// PostgresServer is a PostgreSQL server for one test or, shared, for all tests of the process. Its methods belong to
// the goroutine of the test that asked for it and fail that test.
type PostgresServer struct {
	tb   testing.TB
	core *postgres
}

// postgres is the server itself, of no test. Without a server (s is nil) it runs elsewhere.
type postgres struct {
	s       *server
	shared  bool
	port    *port
	url     string
	program string
}

var (
	sharedPostgres = sync.OnceValues(openSharedPostgres)
	databases      atomic.Int64
)

// Postgres returns the server that all tests of this process share. The first call starts it.
func Postgres(tb testing.TB) *PostgresServer {
	tb.Helper()
	p, err := sharedPostgres()
	must(tb, err)
	return &PostgresServer{tb: tb, core: p}
}

// StartPostgres starts a server of the test's own, which may kill and pause it, and ends it with the test. It writes
// durably (fsync is on). The options may be nil.
func StartPostgres(tb testing.TB, opts *PostgresOptions) *PostgresServer {
	tb.Helper()
	if opts == nil {
		opts = &PostgresOptions{}
	}
	p, err := newPostgres(opts.Settings)
	must(tb, err)
	tb.Cleanup(func() {
		if err := p.close(); err != nil {
			tb.Errorf("testenv: %v", err)
		}
	})
	return &PostgresServer{tb: tb, core: p}
}

func openSharedPostgres() (*postgres, error) {
	if rawURL := os.Getenv("OUTBOX_TEST_POSTGRES_URL"); rawURL != "" {
		return &postgres{url: rawURL, shared: true}, nil
	}
	p, err := newPostgres(nil)
	if err != nil {
		return nil, err
	}
	p.shared = true
	atExit(func() { _ = p.close() })
	return p, nil
}

// URL returns the superuser's URL of the database postgres.
func (p *PostgresServer) URL() string { return p.core.url }

// Addr returns the server's address, for a proxy before it.
func (p *PostgresServer) Addr() string {
	p.tb.Helper()
	u, err := url.Parse(p.core.url)
	must(p.tb, err)
	return u.Host
}

// Exec runs SQL, one statement or several, in the database of that URL, and returns the rows as text, a NULL as "".
func (p *PostgresServer) Exec(databaseURL, sql string) [][]string {
	p.tb.Helper()
	rows, err := query(databaseURL, sql)
	must(p.tb, err)
	return rows
}

// NewDatabase creates an empty database and returns its URL. It is dropped with the test, connections or not, if the
// server runs by then.
func (p *PostgresServer) NewDatabase(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))
	_, err := query(p.core.url, "CREATE DATABASE "+name)
	must(tb, err)
	tb.Cleanup(func() {
		if p.core.s != nil && !p.core.s.running.Load() {
			return
		}
		if _, err := query(p.core.url, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Logf("testenv: drop %s: %v", name, err)
		}
	})
	u, err := url.Parse(p.core.url)
	must(tb, err)
	u.Path = "/" + name
	return u.String()
}

// Kill ends the server and all its backends by SIGKILL and waits until they are gone.
func (p *PostgresServer) Kill() {
	p.tb.Helper()
	must(p.tb, p.private().kill())
}

// Stop shuts the server down in order: it cuts its clients off with SQLSTATE 57P01, and writes a checkpoint.
func (p *PostgresServer) Stop() {
	p.tb.Helper()
	must(p.tb, p.private().stop(syscall.SIGINT))
}

// Start starts the server again, on the same port and data, and waits until it takes connections.
func (p *PostgresServer) Start() {
	p.tb.Helper()
	p.private()
	must(p.tb, p.core.start())
}

// Pause stops all processes of the server by SIGSTOP: connections remain open and nothing answers.
func (p *PostgresServer) Pause() {
	p.tb.Helper()
	signalAll(p.private().dir, syscall.SIGSTOP)
}

// Resume lets a paused server go on.
func (p *PostgresServer) Resume() {
	p.tb.Helper()
	signalAll(p.private().dir, syscall.SIGCONT)
}

// private returns the server if it is the test's own.
func (p *PostgresServer) private() *server {
	p.tb.Helper()
	if p.core.shared {
		p.tb.Fatal("testenv: other tests share this server; take a private one by StartPostgres")
	}
	return p.core.s
}

const postgresSettings = `
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
max_prepared_transactions = 20
shared_buffers = 128MB
# In the data folder, so that a killed server leaves nothing elsewhere.
dynamic_shared_memory_type = mmap
# A test's end is not worth a warning each.
log_min_messages = warning
`

func newPostgres(settings map[string]string) (*postgres, error) {
	const folders = "/usr/lib/postgresql/*/bin"
	initdb, err := findProgram("initdb", folders)
	if err != nil {
		return nil, err
	}
	program, err := findProgram("postgres", filepath.Dir(initdb))
	if err != nil {
		return nil, err
	}
	s, err := newServer("postgres", "postgres")
	if err != nil {
		return nil, err
	}
	args := []string{"-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync"}
	if err := s.run(initdb, args...); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, s.logTail())
	}
	p := &postgres{s: s, program: program}
	return p, p.startFirst(settings)
}

// startFirst starts the server on a port that is free, on another one if somebody was faster.
func (p *postgres) startFirst(settings map[string]string) error {
	const tries = 3
	var err error
	for range tries {
		if p.port, err = takePort(); err != nil {
			return err
		}
		p.url = "postgres://postgres@" + p.port.addr() + "/postgres?sslmode=disable"
		if err = p.configure(settings); err != nil {
			return err
		}
		if err = p.start(); err == nil || !strings.Contains(err.Error(), "could not bind") {
			return err
		}
		p.port.release()
	}
	return err
}

// configure writes the settings into the file that the server reads last, ALTER SYSTEM's.
func (p *postgres) configure(settings map[string]string) error {
	var b strings.Builder
	b.WriteString(postgresSettings)
	fmt.Fprintf(&b, "port = %d\n", p.port.number)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	return p.s.write("data/postgresql.auto.conf", b.String())
}

func (p *postgres) start() error {
	if p.s.running.Load() {
		return fmt.Errorf("%s runs already", p.s.name)
	}
	cmd, err := p.s.command(nil, p.program, "-D", "data")
	if err != nil {
		return err
	}
	if err := p.s.spawn(cmd); err != nil {
		return err
	}
	return p.s.await(p.ready)
}

// ready reads the file that pg_ctl reads too: the first line is the postmaster's id, the eighth its state.
func (p *postgres) ready() bool {
	text, err := os.ReadFile(filepath.Join(p.s.dir, "data", "postmaster.pid"))
	if err != nil {
		return false
	}
	const stateLine = 7
	lines := bytes.Split(text, []byte("\n"))
	return len(lines) > stateLine &&
		string(lines[0]) == strconv.Itoa(p.s.main.Process.Pid) &&
		string(bytes.TrimSpace(lines[stateLine])) == "ready"
}

// close ends the server and removes it. Its own immediate shutdown frees its shared memory.
func (p *postgres) close() error {
	defer p.port.release()
	if p.s.running.Load() {
		signalAll(p.s.dir, syscall.SIGCONT)
		if err := p.s.stop(syscall.SIGQUIT); err != nil {
			return err
		}
	}
	return p.s.remove()
}
