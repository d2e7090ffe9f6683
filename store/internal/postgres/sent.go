package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// partitioned is the age from which on history that has a partition goes with it alone.
const partitioned = 24 * time.Hour

const (
	// cutoff is when what is older begins; wholeDays when the day began of which a
	// part is older.
	cutoff    = `(now() - $1::bigint * interval '1 microsecond')`
	wholeDays = `date_trunc('day', ` + cutoff + `, 'UTC')`

	// purgeSQL goes by places, which need no right on a partition. Its places are
	// taken to the partitions again, so the time stands there once more.
	purgeSQL = `WITH gone AS (
	DELETE FROM {sent} WHERE sent_at < {before} AND place = ANY (ARRAY(
		SELECT place FROM {sent} WHERE sent_at < {before} ORDER BY sent_at LIMIT $2))
	RETURNING 1)
SELECT count(*) FROM gone`

	// purgeDefaultSQL is for what has no partition to be dropped with.
	purgeDefaultSQL = `WITH gone AS (
	DELETE FROM {sent_default} WHERE ctid = ANY (ARRAY(
		SELECT ctid FROM {sent_default} WHERE sent_at < ` + cutoff + ` ORDER BY sent_at LIMIT $2 FOR UPDATE SKIP LOCKED))
	RETURNING 1)
SELECT count(*) FROM gone`

	countSentSQL        = `SELECT count(*) FROM {sent} WHERE sent_at < ` + cutoff
	countWholeSentSQL   = `SELECT count(*) FROM {sent} WHERE sent_at < ` + wholeDays
	countDefaultSentSQL = `SELECT count(*) FROM {sent_default} WHERE sent_at >= ` + wholeDays + ` AND sent_at < ` + cutoff

	// missingDaysSQL finds the days, today and the next two, that have no partition
	// and can get one, if the role may make it. A day of which there is history in
	// the default partition stays there.
	missingDaysSQL = `SELECT to_char(d.day, 'YYYYMMDD'), to_char(d.day, 'YYYY-MM-DD'), to_char(d.day + interval '1 day', 'YYYY-MM-DD')
FROM (SELECT date_trunc('day', now() AT TIME ZONE 'UTC') + n * interval '1 day' AS day FROM generate_series(0, 2) AS n) AS d
JOIN pg_catalog.pg_class p ON p.oid = {sent_literal} AND pg_has_role(p.relowner, 'USAGE') AND has_schema_privilege(p.relnamespace, 'CREATE')
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = p.relnamespace AND c.relname = ($1::text || to_char(d.day, 'YYYYMMDD'))::name)
  AND NOT EXISTS (SELECT FROM {sent_default} s WHERE s.sent_at >= d.day AT TIME ZONE 'UTC' AND s.sent_at < (d.day + interval '1 day') AT TIME ZONE 'UTC')`

	// makeDaySQL attaches the partition when it is made: unlike making it as one,
	// that keeps nobody from the others.
	makeDaySQL = `CREATE TABLE {day} (LIKE {sent} INCLUDING ALL) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 10000)`

	attachDaySQL = `ALTER TABLE {sent} ATTACH PARTITION {day} FOR VALUES FROM ({from}) TO ({to})`

	oldDaysSQL = `SELECT c.relname::text FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
	JOIN pg_catalog.pg_class p ON p.oid = i.inhparent AND p.relnamespace = c.relnamespace
WHERE i.inhparent = {sent_literal} AND pg_has_role(c.relowner, 'USAGE')
  AND left(c.relname, length($2::text)) = $2 AND substr(c.relname, length($2::text) + 1) ~ '^[0-9]{8}$'
  AND substr(c.relname, length($2::text) + 1) < to_char(` + cutoff + ` AT TIME ZONE 'UTC', 'YYYYMMDD')
ORDER BY c.relname`

	// shortLocks bounds how long to wait for locks, and how long those who emit or
	// settle have to wait behind one who changes partitions.
	shortLocks = `SET LOCAL lock_timeout = '200ms'`
)

// unmade are the errors of changing partitions that are left for the next time: no
// lock in time, no right, and what others have put there meanwhile.
var unmade = []string{lockNotAvailable, insufficientPrivilege, "23514", "42P07", "42P17", "42P01"}

// PurgeSent deletes from the history; see [store.Admin]. It also makes the
// partitions of the next days, if the role may.
func (c *Core) PurgeSent(ctx context.Context, age time.Duration, limit int) (int, error) {
	n, err := c.purgeSent(ctx, age, max(limit, 0))
	if err != nil {
		return n, fmt.Errorf("purge the history: %w", err)
	}
	return n, nil
}

func (c *Core) purgeSent(ctx context.Context, age time.Duration, limit int) (int, error) {
	if err := c.makeDays(ctx); err != nil {
		return 0, err
	}
	n, err := c.dropDays(ctx, age)
	if err != nil {
		return n, err
	}
	rest := []string{strings.ReplaceAll(purgeSQL, "{before}", cutoff)}
	if age >= partitioned {
		rest = []string{strings.ReplaceAll(purgeSQL, "{before}", wholeDays), purgeDefaultSQL}
	}
	for _, sql := range rest {
		deleted, err := c.purgeOld(ctx, sql, age, limit)
		if err != nil {
			return n, err
		}
		n, limit = n+deleted, limit-deleted
	}
	return n, nil
}

// purgeOld deletes up to limit rows, unless another one is at it.
func (c *Core) purgeOld(ctx context.Context, sql string, age time.Duration, limit int) (n int, err error) {
	if limit <= 0 {
		return 0, nil
	}
	err = c.purging(ctx, func(q Querier) error {
		return ScanIn(q)(ctx, InIndexOrder, c.names.SQL(sql), []any{age.Microseconds(), int64(limit)}, func(rows Rows) error {
			if !rows.Next() {
				return rows.Err()
			}
			return rows.Scan(&n)
		})
	})
	return n, err
}

// purging runs fn in a transaction, unless another one purges.
func (c *Core) purging(ctx context.Context, fn func(q Querier) error) error {
	return c.db.InTx(ctx, ReadWrite, func(q Querier) error {
		if alone, err := c.alone(ctx, q, "purge"); err != nil || !alone {
			return err
		}
		return fn(q)
	})
}

// makeDays makes the partitions of the next days that are missing.
func (c *Core) makeDays(ctx context.Context) error {
	var days [][3]string
	err := scan(ctx, c.db, c.names.SQL(missingDaysSQL), []any{c.names.Prefix + "sent_"}, func(rows Rows) error {
		for rows.Next() {
			var d [3]string
			if err := rows.Scan(&d[0], &d[1], &d[2]); err != nil {
				return err
			}
			days = append(days, d)
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	for _, d := range days {
		replace := strings.NewReplacer("{day}", c.day(d[0]), "{from}", Literal(d[1]+" 00:00:00+00"), "{to}", Literal(d[2]+" 00:00:00+00"))
		err := c.purging(ctx, func(q Querier) error {
			for _, sql := range []string{shortLocks, makeDaySQL, attachDaySQL} {
				if err := q.Exec(ctx, c.names.SQL(replace.Replace(sql))); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && !slices.Contains(unmade, sqlState(err)) {
			return fmt.Errorf("make partition %s: %w", d[0], err)
		}
	}
	return nil
}

// day returns the name of a partition.
func (c *Core) day(suffix string) string {
	return Quote(c.names.Schema) + "." + Quote(c.names.Prefix+"sent_"+suffix)
}

// dropDays drops the partitions of which all is old enough, and returns how many
// rows they had.
func (c *Core) dropDays(ctx context.Context, age time.Duration) (int, error) {
	var names []string
	err := scan(ctx, c.db, c.names.SQL(oldDaysSQL), []any{age.Microseconds(), c.names.Prefix + "sent_"}, func(rows Rows) error {
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			names = append(names, name)
		}
		return rows.Err()
	})
	total := 0
	for _, name := range names {
		if err != nil {
			break
		}
		var n int
		n, err = c.drop(ctx, Quote(c.names.Schema)+"."+Quote(name))
		total += n
	}
	return total, err
}

func (c *Core) drop(ctx context.Context, table string) (n int, err error) {
	err = c.purging(ctx, func(q Querier) error {
		if err := q.Exec(ctx, shortLocks); err != nil {
			return err
		}
		// Nothing comes to a day that has passed, so they can be counted before
		// anybody is kept out.
		if _, err := queryRow(ctx, q, `SELECT count(*) FROM `+table, nil, &n); err != nil {
			return err
		}
		return q.Exec(ctx, `DROP TABLE `+table)
	})
	if err != nil {
		n = 0
	}
	if slices.Contains(unmade, sqlState(err)) {
		return 0, nil
	}
	return n, err
}

// CountSent returns how many messages PurgeSent would delete; see [store.Admin].
func (c *Core) CountSent(ctx context.Context, age time.Duration) (n int, err error) {
	statements := []string{countSentSQL}
	if age >= partitioned {
		statements = []string{countWholeSentSQL, countDefaultSentSQL}
	}
	err = c.db.InTx(ctx, OneSnapshot, func(q Querier) error {
		n = 0
		for _, sql := range statements {
			var part int
			if _, err := queryRow(ctx, q, c.names.SQL(sql), []any{age.Microseconds()}, &part); err != nil {
				return err
			}
			n += part
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count the history: %w", err)
	}
	return n, nil
}
