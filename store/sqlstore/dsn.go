package sqlstore

import "strings"

// SQLiteDSN returns the data source name that this package recommends for the
// database file at path, as the driver modernc.org/sqlite reads it: wait up to 10
// seconds for the writer before, write-ahead logging, a synchronous commit, and
// transactions that take the write lock when they begin. Without the last, a
// transaction of one's own that reads before it writes can fail with SQLITE_BUSY.
func SQLiteDSN(path string) string {
	escaped := strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
	return "file:" + escaped + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate"
}
