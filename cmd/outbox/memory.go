package main

import "cmp"

// What a relay may need beside relay.memory before the collector works harder: the
// buffers of its connections, and what is not in use any more and not yet collected.
const (
	processRoom   = 16 << 20
	relayRoom     = 8 << 20
	linkRoom      = 3 << 20  // for each further broker connection
	defaultMemory = 16 << 20 // of relay.memory
)

// limitMemory has the garbage collector work harder where this process needs more
// than its relays should: by itself it lets the heap grow to double of what is in
// use, which with payloads of 1 MiB was five times relay.memory. What the user says
// in GOMEMLIMIT or GOGC stays.
func (a *app) limitMemory(stations []*station, memory int) {
	for _, name := range []string{"GOMEMLIMIT", "GOGC"} {
		if _, set := a.env(name); set {
			return
		}
	}
	if a.setMemoryLimit == nil {
		return
	}
	each := int64(relayRoom + cmp.Or(memory, defaultMemory))
	limit := processRoom + int64(len(stations))*each
	for _, s := range stations {
		if s.way.broker != nil {
			limit += linkRoom * int64(max(s.way.broker.Connections, 1)-1)
		}
	}
	a.setMemoryLimit(limit)
}
