// Package promoutbox has metrics of relays and of outboxes for Prometheus, by
// github.com/prometheus/client_golang.
//
//	m := promoutbox.New(nil)
//	r := relay.New(store, publisher, &relay.Config{Hooks: []relay.Hook{m}})
//	m.Watch(r)
//	s := promoutbox.NewStore(store, nil)
//	go s.Run(ctx) // counts, until ctx ends
//	registry.MustRegister(m, s)
//	http.ListenAndServe(":9464", promoutbox.Handler(registry, r.Ready))
//
// [Metrics] is of one relay: what it sent, how long that took, what it holds.
// [Store] is of a whole outbox: how much waits in the database and for how long; one
// of all processes that look at it is enough. All names begin with outbox_; each has
// the label outbox, empty unless a configuration says otherwise, to tell several
// outboxes apart.
package promoutbox
