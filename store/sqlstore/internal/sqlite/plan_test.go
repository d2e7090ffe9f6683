package sqlite

import (
	"strings"
	"testing"

	"github.com/outbox-go/outbox/store"
)

// TestStatementsDoNotScan: what a relay does again and again, and what must be fast
// with a million dead letters, finds its rows by an index.
func TestStatementsDoNotScan(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	tenant := "t"
	ids := []string{"a"}
	read := func(s *Store, r store.ReadRequest) string { text, _ := s.readText(&r); return text }
	list := func(q store.Query) string { text, _ := listText(&q, shelves[q.State], 0); return text }
	for name, c := range map[string]struct{ text, want string }{
		"read":          {read(s, store.ReadRequest{ExceptTenants: ids, Except: []store.Key{{}}}), "INTEGER PRIMARY KEY (rowid>?)"},
		"read a tenant": {read(s, store.ReadRequest{OnlyTenant: &tenant}), "INTEGER PRIMARY KEY (rowid>?)"},
		"read a route":  {read(s.Route("x"), store.ReadRequest{}), "outbox_message_route (route=? AND rowid>?)"},
		"settle":        {settleSQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"keep":          {keepSQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"fail":          {failSQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"die":           {dieSQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"remove":        {removeSQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"parked":        {parkedSQL, "COVERING INDEX outbox_dead_parked (parked=? AND route=?)"},
		"next due":      {nextDueSQL, "COVERING INDEX outbox_scheduled_due"},
		"promote":       {promoteSQL, "INDEX outbox_scheduled_due (deliver_at<?)"},
		"promoted":      {promotedSQL, "COVERING INDEX outbox_scheduled_due (deliver_at<?)"},
		"dispatch":      {dispatchSQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"held":          {leaseHeldSQL, "PRIMARY KEY (route=? AND shard=?)"},
		"acquire":       {acquireSQL, "PRIMARY KEY (route=? AND shard=?)"},
		"redrive":       {redriveSQL, "outbox_dead_parked (parked=? AND route=? AND tenant=? AND key=?)"},
		"redrive anew":  {redriveAnewSQL, "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)"},
		"discard":       {discardSQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"key parked":    {keyParkedSQL, "outbox_dead_parked (parked=? AND route=? AND tenant=? AND key=?)"},
		"retry":         {retrySQL, "INTEGER PRIMARY KEY (rowid=?)"},
		"old sent":      {oldSentSQL, "COVERING INDEX outbox_sent_at (sent_at<?)"},
		"purge sent":    {purgeSentSQL, "COVERING INDEX outbox_sent_at (sent_at<?)"},
		"count sent":    {countSentSQL, "COVERING INDEX outbox_sent_at (sent_at<?)"},
		"list":          {list(store.Query{State: store.Pending}), "INTEGER PRIMARY KEY (rowid>?)"},
		"list dead ids": {list(store.Query{State: store.Dead, IDs: ids}), "INDEX outbox_dead_id (id=? AND rowid>?)"},
		"list sent ids": {list(store.Query{State: store.Sent, IDs: ids}), "INDEX outbox_sent_id (id=? AND rowid>?)"},
		"list later":    {list(store.Query{State: store.Scheduled, IDs: ids}), "INDEX outbox_scheduled_id (id=? AND rowid>?)"},
		"oldest":        {oldestOtherSQL, "INDEX outbox_message_route (route=?)"},
		"routes":        {routesSQL, "COVERING INDEX outbox_message_route"},
	} {
		plan := explain(t, s.db, s.names.sql(c.text), make([]any, parameters(c.text))...)
		if !strings.Contains(plan, c.want) {
			t.Errorf("%s: the plan is\n%swant in it: %s", name, plan, c.want)
		}
		whole := name == "next due" || name == "routes" // one step into, and all of, an index
		if !whole && (strings.Contains(plan, "SCAN outbox_") || strings.Contains(plan, "SCAN d")) {
			t.Errorf("%s scans a table:\n%s", name, plan)
		}
		if strings.Contains(plan, "ORDER BY") && !strings.Contains(name, "ids") && !strings.HasPrefix(name, "redrive") && name != "list later" {
			t.Errorf("%s sorts:\n%s", name, plan)
		}
	}
}

// parameters is the number of a statement's parameters.
func parameters(text string) int {
	for n := 9; n > 0; n-- {
		if strings.Contains(text, "?"+string(rune('0'+n))) {
			return n
		}
	}
	return strings.Count(text, "?")
}
