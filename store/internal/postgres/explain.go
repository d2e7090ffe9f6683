package postgres

// Statement returns what a [Core] runs for a purpose, to have it explained.
func Statement(n *Names, purpose string) (settings Settings, sql string) {
	s := map[string]struct {
		settings Settings
		sql      string
	}{
		"fail":     {ByIndex, failSQL},
		"bury":     {ByIndex, burySQL},
		"parked":   {InIndexOrder, parkedSQL},
		"next due": {AsPlanned, nextDueSQL},
		"promote":  {InIndexOrder, promoteSQL},
		"dispatch": {ByIndex, dispatchSQL},
		"redrive":  {ByIndex, redriveSQL},
		"discard":  {ByIndex, discardSQL},
	}[purpose]
	return s.settings, n.SQL(s.sql)
}
