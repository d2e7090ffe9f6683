package report

import "slices"

// The addresses that a command names.
const (
	toRabbit = "--database-url $DATABASE_URL --broker-url $RABBITMQ_URL"
	toNATS   = "--database-url $DATABASE_URL --broker-url $NATS_URL"
)

// Sections are the parts of the report, in its order.
var Sections = slices.Concat(drains, latencies, []Section{emit}, fading, footprint, sqlite, []Section{functions})

// drainColumns are those of every section that drains a backlog.
var drainColumns = []Column{
	{"messages/s", Rate, PerSecond},
	{"out of order", OutOfOrder, Count},
	{"twice", Duplicates, Count},
	{"CPU us/message, own process", CPUPerMessage, Microseconds},
}

var drains = []Section{
	{
		ID: "drain-quorum", Title: "A backlog from PostgreSQL to a RabbitMQ quorum queue",
		Text: `
A backlog is written, then the clock starts with the relays and stops when the consumer has the last message. River works
off one job for each message, with 1,000 workers, each of which publishes and waits for the confirm; it promises no order.
A forwarder of Watermill publishes one message at a time, so that there is also a run with eight topics, by key, and a
forwarder for each. The peers are given fewer messages, since they take so much longer, which is to their advantage if
anything: River's rate falls with the jobs that it has done.`,
		Systems: []System{
			{ID: "limit", Title: "`limit`: the same from memory", Messages: 200_000, Command: outbox("bench limit --broker-url $RABBITMQ_URL --queue-type quorum --keys 10000")},
			{ID: "ours", Title: "**outbox**, 10,000 keys, strict", Messages: 200_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --keys 10000 --order strict")},
			{ID: "ours-nokeys", Title: "outbox, no keys", Messages: 100_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --keys 0")},
			{ID: "ours-10-pipelined", Title: "outbox, 10 keys, pipelined", Messages: 100_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --keys 10 --order pipelined")},
			{ID: "ours-10", Title: "outbox, 10 keys, strict", Messages: 10_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --keys 10 --order strict")},
			{ID: "river", Title: "River", Messages: 60_000, AnyOrder: true, Command: peer("river drain " + toRabbit + " --queue-type quorum --keys 10000")},
			{ID: "watermill", Title: "Watermill forwarder", Messages: 5_000, AnyOrder: true, Command: peer("watermill drain " + toRabbit + " --queue-type quorum --keys 10000")},
			{ID: "watermill-8", Title: "Watermill, 8 topics", Messages: 15_000, AnyOrder: true, Command: peer("watermill drain " + toRabbit + " --queue-type quorum --keys 10000 --topics 8")},
		},
		Columns: drainColumns,
		Comparisons: []Comparison{
			{Title: "outbox to `limit`", Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}, AtLeast: 0.90},
			{Title: "outbox to River", Of: Figure{"ours", Rate}, To: Figure{"river", Rate}, AtLeast: 3},
			{Title: "outbox to Watermill", Of: Figure{"ours", Rate}, To: Figure{"watermill", Rate}},
			{Title: "outbox to Watermill with 8 topics", Of: Figure{"ours", Rate}, To: Figure{"watermill-8", Rate}},
			{Title: "outbox without keys to `limit`", Of: Figure{"ours-nokeys", Rate}, To: Figure{"limit", Rate}},
			{Title: "outbox with 10 keys, pipelined, to `limit`", Of: Figure{"ours-10-pipelined", Rate}, To: Figure{"limit", Rate}},
			{Title: "outbox with 10 keys, strict, to `limit`", Of: Figure{"ours-10", Rate}, To: Figure{"limit", Rate}},
		},
	},
	{
		ID: "drain-classic", Title: "The same to a classic queue",
		Text: `A durable classic queue writes each persistent message itself, where a quorum queue writes many at once.`,
		Systems: []System{
			{ID: "limit", Title: "`limit`: the same from memory", Messages: 100_000, Command: outbox("bench limit --broker-url $RABBITMQ_URL --queue-type classic --keys 10000")},
			{ID: "ours", Title: "**outbox**, 10,000 keys, strict", Messages: 100_000, Command: outbox("bench drain " + toRabbit + " --queue-type classic --keys 10000 --order strict")},
			{ID: "river", Title: "River", Messages: 60_000, AnyOrder: true, Command: peer("river drain " + toRabbit + " --queue-type classic --keys 10000")},
		},
		Columns: drainColumns,
		Comparisons: []Comparison{
			{Title: "outbox to `limit`", Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}, AtLeast: 0.95},
			{Title: "outbox to River", Of: Figure{"ours", Rate}, To: Figure{"river", Rate}},
		},
	},
	{
		ID: "drain-jetstream", Title: "The same to JetStream",
		Text: `A stream with file storage, in a server process of its own; messages carry their ids for the server's own duplicate check.`,
		Systems: []System{
			{ID: "limit", Title: "`limit`: the same from memory", Messages: 400_000, Command: outbox("bench limit --broker-url $NATS_URL --keys 10000")},
			{ID: "ours", Title: "**outbox**, 10,000 keys, strict", Messages: 400_000, Command: outbox("bench drain " + toNATS + " --keys 10000 --order strict")},
		},
		Columns: drainColumns,
		Comparisons: []Comparison{
			{Title: "outbox, messages/s", Of: Figure{"ours", Rate}, Unit: PerSecond, AtLeast: 60_000},
			{Title: "outbox to `limit`", Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}, AtLeast: 0.60},
		},
	},
	{
		ID: "ceiling", Title: "`limit` against bare loops",
		Text: `
Without a consumer, and without all that makes a message ours: the loops publish bytes by the client library, with a window
of 1,000 unconfirmed messages. To RabbitMQ the barest sends the payload alone, the other one the properties that a relay
sends, too. To JetStream the one uses PublishMsgAsync, the other counts acknowledgements by itself. If ` + "`limit`" + ` were
slow, it would flatter the ratios above; so it has to stand beside the faster loop of each broker.`,
		Systems: []System{
			{ID: "amqp-limit", Title: "`limit`, RabbitMQ quorum", Messages: 150_000, Command: outbox("bench limit --broker-url $RABBITMQ_URL --queue-type quorum --no-consumer")},
			{ID: "amqp-bare", Title: "bare amqp091-go loop", Messages: 150_000, Command: peer("amqp drain --broker-url $RABBITMQ_URL --queue-type quorum")},
			{ID: "amqp-properties", Title: "the same with a relay's properties", Messages: 150_000, Command: peer("amqp drain --broker-url $RABBITMQ_URL --queue-type quorum --properties")},
			{ID: "nats-limit", Title: "`limit`, JetStream", Messages: 500_000, Command: outbox("bench limit --broker-url $NATS_URL --no-consumer")},
			{ID: "nats-bare", Title: "bare nats.go loop, PublishMsgAsync", Messages: 500_000, Command: peer("nats drain --broker-url $NATS_URL")},
			{ID: "nats-raw", Title: "bare nats.go loop, acknowledgements counted", Messages: 500_000, Command: peer("nats drain --broker-url $NATS_URL --raw")},
		},
		Columns: []Column{{"messages/s", Rate, PerSecond}, {"CPU us/message, own process", CPUPerMessage, Microseconds}},
		Comparisons: []Comparison{
			{Title: "RabbitMQ: `limit` to the bare loop", Of: Figure{"amqp-limit", Rate}, To: Figure{"amqp-bare", Rate}, AtLeast: 0.9},
			{Title: "RabbitMQ: `limit` to the loop with properties", Of: Figure{"amqp-limit", Rate}, To: Figure{"amqp-properties", Rate}, AtLeast: 0.9},
			{Title: "JetStream: `limit` to the loop by PublishMsgAsync", Of: Figure{"nats-limit", Rate}, To: Figure{"nats-bare", Rate}, AtLeast: 0.9},
			{Title: "JetStream: `limit` to the loop that counts", Of: Figure{"nats-limit", Rate}, To: Figure{"nats-raw", Rate}, AtLeast: 0.9},
		},
	},
}

var latencies = []Section{
	latency("latency-100", "Latency at 100 messages a second", "--rate 100 --duration 12s", `
From PostgreSQL to the consumer of a durable classic queue, which gets a message before it is on disk. A quorum queue hands
it out when it is there, a millisecond or more later on this disk, for all systems alike: that would hide what they differ
in. Half of the transactions commit 3 ms after their INSERT, so that numbers and
commits come in different orders. The baseline is the barest thing that works: an INSERT and `+"`pg_notify`"+` in the
transaction, and a process that listens, selects, publishes and deletes in the background. It keeps no order between
connections, bears no second relay, and its NOTIFY takes a lock of the whole server in every commit. There are 100 keys, so
that messages of a key follow each other closely, and each key is emitted by one connection.`),
	latency("latency-1000", "Latency at 1,000 messages a second", "--rate 1000 --duration 6s", `The same, ten times as many: ten a second of each key.`),
}

// latency is what one rate of emitting gives.
func latency(id, title, rate, text string) Section {
	common := " " + toRabbit + " --queue-type classic --keys 100 --warm-up 1s --hold 3ms --hold-share 0.5 " + rate
	ratio := func(title, of, to, value string, atMost float64) Comparison {
		return Comparison{Title: title, Of: Figure{of, value}, To: Figure{to, value}, AtMost: atMost}
	}
	return Section{
		ID: id, Title: title,
		Text: text,
		Systems: []System{
			{ID: "notify", Title: "bare LISTEN/NOTIFY, another process", Command: peer("notify steady" + common)},
			{ID: "ours-process", Title: "**outbox**, relay in another process", Command: outbox("bench steady --relay process" + common)},
			{ID: "ours-here", Title: "**outbox**, relay in the emitter's process", Command: outbox("bench steady --relay here" + common)},
			{ID: "river", Title: "River, another process", AnyOrder: true, Command: peer("river steady --relay process" + common)},
			{ID: "watermill", Title: "Watermill forwarder, another process", AnyOrder: true, Command: peer("watermill steady --relay process" + common)},
		},
		Columns: []Column{{"p50 ms", P50, Milliseconds}, {"p99 ms", P99, Milliseconds}, {"messages/s", Rate, PerSecond}, {"out of order", OutOfOrder, Count}, {"twice", Duplicates, Count}},
		Comparisons: []Comparison{
			ratio("p50, relay in another process, to the baseline", "ours-process", "notify", P50, 1.2),
			ratio("p99, relay in another process, to the baseline", "ours-process", "notify", P99, 1.2),
			ratio("p50, relay in the emitter's process, to the baseline", "ours-here", "notify", P50, 0.8),
			ratio("p50, relay in another process, to River", "ours-process", "river", P50, 1),
			ratio("p99, relay in another process, to River", "ours-process", "river", P99, 1),
			ratio("p50, relay in another process, to Watermill", "ours-process", "watermill", P50, 1),
			ratio("p99, relay in another process, to Watermill", "ours-process", "watermill", P99, 1),
		},
	}
}

var emit = Section{
	ID: "emit", Title: "What emitting costs",
	Text: `
32 connections run the same business transaction with and without the outbox, in slices of 0.7 s that take turns, in an order
of each round's own, in one run of the program; a ratio is that of each round. Beside the plain transaction, whose statements
take a round trip each, every variant is compared with its counterpart, the same form of transaction without the outbox: a
batch saves round trips by itself. What is called armed runs with the database set as an idle relay would leave it, which
waits to be notified, the others with it set as a busy one would; no relay runs. Between two notifications that Wake sends
there are two milliseconds at least. ` + "`outbox bench emit`" + ` explains each variant.`,
	OwnRounds: true,
	Systems: []System{
		{ID: "none", Title: "no outbox", Command: outbox("bench emit --database-url $DATABASE_URL --connections 32 --rounds $SLICES --slice 700ms")},
		{ID: "emit", Title: "`Emit`"},
		{ID: "intx", Title: "`InTx`"},
		{ID: "batch", Title: "a batch inside the transaction"},
		{ID: "one-batch", Title: "the whole transaction in one batch"},
		{ID: "none-batch", Title: "no outbox, a batch inside the transaction"},
		{ID: "none-one-batch", Title: "no outbox, the whole transaction in one batch"},
	},
	Columns: emitColumns,
	Comparisons: []Comparison{
		{Title: "`Emit` to the plain transaction (a round trip each)", Of: Figure{"emit", "ratio"}, AtLeast: 0.75},
		{Title: "batch inside the transaction, to the plain transaction (a round trip each)", Of: Figure{"batch", "ratio"}, AtLeast: 0.88},
		{Title: "the same to its counterpart, whose statements are in a batch, too", Of: Figure{"batch", "ratio_to_counterpart"}},
		{Title: "whole transaction in one batch, to the plain transaction (a round trip each)", Of: Figure{"one-batch", "ratio"}, AtLeast: 0.97},
		{Title: "the same to its counterpart, which is one batch, too", Of: Figure{"one-batch", "ratio_to_counterpart"}},
		{Title: "share of the rate that Wake after the commit takes, no relay waiting", Of: Figure{"none", "wake_up_cost"}, AtMost: 0.03},
		{Title: "share that it takes of `Emit` that a relay waits to be notified", Of: Figure{"none", "wake_up_cost_armed"}},
		{Title: "the same of `InTx`", Of: Figure{"none", "wake_up_cost_intx_armed"}},
	},
}

var emitColumns = []Column{
	{"transactions/s", "transactions_per_second", PerSecond},
	{"to the plain transaction", "ratio", Ratio},
	{"to its counterpart", "ratio_to_counterpart", Ratio},
}

var fading = []Section{
	{
		ID: "fading", Title: "Nothing fades",
		Text: `
A million messages to a quorum queue, and the rate of the last tenth against that of the first: beside a session that holds a
snapshot from before the first row to the end, so that no dead row can be removed; with four relays; and beside 64 more
outboxes with an idle relay each. River has 100,000 messages, with and without such a snapshot. Three rounds, since a run
takes long and each of its tenths is 100,000 messages.`,
		Rounds: 3,
		Systems: []System{
			{ID: "ours", Title: "**outbox**", Messages: 1_000_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum")},
			{ID: "ours-held", Title: "outbox, snapshot held", Messages: 1_000_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --hold-snapshot")},
			{ID: "ours-4", Title: "outbox, 4 relays", Messages: 1_000_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --relays 4")},
			{ID: "ours-64", Title: "outbox, beside 64 idle ones", Messages: 1_000_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --idle-outboxes 64")},
			{ID: "river", Title: "River", Messages: 100_000, AnyOrder: true, Command: peer("river drain " + toRabbit + " --queue-type quorum")},
			{ID: "river-held", Title: "River, snapshot held", Messages: 100_000, AnyOrder: true, Command: peer("river drain " + toRabbit + " --queue-type quorum --hold-snapshot")},
		},
		Columns: []Column{{"messages/s", Rate, PerSecond}, {"first tenth, messages/s", "tenth_1", PerSecond}, {"last tenth, messages/s", "tenth_10", PerSecond}, {"last to first", Fading, Ratio}},
		Comparisons: []Comparison{
			{Title: "last tenth to first", Of: Figure{"ours", Fading}, AtLeast: 0.9},
			{Title: "last tenth to first, snapshot held", Of: Figure{"ours-held", Fading}, AtLeast: 0.9},
			{Title: "4 relays to one", Of: Figure{"ours-4", Rate}, To: Figure{"ours", Rate}, AtLeast: 0.9},
			{Title: "last tenth to first, beside 64 idle outboxes", Of: Figure{"ours-64", Fading}, AtLeast: 0.9},
			{Title: "beside 64 idle outboxes to alone", Of: Figure{"ours-64", Rate}, To: Figure{"ours", Rate}},
			{Title: "River, snapshot held, to River", Of: Figure{"river-held", Rate}, To: Figure{"river", Rate}},
		},
	},
}

var footprint = []Section{
	{
		ID: "idle", Title: "An idle relay",
		Text: `
` + "`outbox relay`" + ` with the defaults on an empty outbox: the processor's time of its process, and what it asks the database, BEGIN and
COMMIT included, by ` + "`pg_stat_statements`" + `, over 40 seconds after 20 of settling, in three rounds. The harness measures
it beside the command, which by itself tells none of it: ` + "`make bench SECTIONS=idle`" + `.`,
		Rounds: 3,
		Systems: []System{
			{ID: "relay", Title: "**outbox relay**, idle", Command: outbox("relay " + toRabbit)},
		},
		Columns: []Column{{"% of one core", IdleCPU, Percent}, {"queries/s", IdleQueries, PerSecond}},
		Comparisons: []Comparison{
			{Title: "of one core", Of: Figure{"relay", IdleCPU}, Unit: Percent, AtMost: 1},
			{Title: "queries a second", Of: Figure{"relay", IdleQueries}, Unit: PerSecond, AtMost: 5},
		},
	},
	{
		ID: "memory", Title: "Memory of a relay",
		Text:   `The peak of the resident memory of ` + "`outbox relay`" + `, which runs in a process of its own and drains a backlog to a quorum queue. Three rounds.`,
		Rounds: 3,
		Systems: []System{
			{ID: "small", Title: "1,000,000 messages of 250 bytes", Messages: 1_000_000, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --relay-process")},
			{ID: "large", Title: "300 messages of 1 MiB", Messages: 300, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --relay-process --payload 1048576")},
			{ID: "larger", Title: "1,200 messages of 1 MiB", Messages: 1_200, Command: outbox("bench drain " + toRabbit + " --queue-type quorum --relay-process --payload 1048576")},
		},
		Columns: []Column{{"peak, MiB", RelayPeak, MiB}, {"messages/s", Rate, PerSecond}},
		Comparisons: []Comparison{
			{Title: "peak, 250 bytes", Of: Figure{"small", RelayPeak}, Unit: MiB, AtMost: 64 << 20},
			{Title: "peak of 1,200 messages of 1 MiB to that of 300", Of: Figure{"larger", RelayPeak}, To: Figure{"large", RelayPeak}, AtMost: 1.25},
		},
	},
}

var sqlite = []Section{
	{
		ID: "sqlite-emit", Title: "SQLite: what emitting costs",
		Text: `
One connection, a database file with a write-ahead log. Each commit is synced to disk unless it says NORMAL; then commits are
cheap, and what is added to them weighs more.`,
		OwnRounds: true,
		Systems: []System{
			{ID: "none", Title: "no outbox", Command: outbox("bench emit --rounds $SLICES --slice 700ms")},
			{ID: "emit", Title: "`Emit`"},
			{ID: "none-normal", Title: "no outbox, synchronous=NORMAL"},
			{ID: "emit-normal", Title: "`Emit`, synchronous=NORMAL"},
		},
		Columns: emitColumns,
		Comparisons: []Comparison{
			{Title: "`Emit` to no outbox", Of: Figure{"emit", "ratio"}, AtLeast: 0.8},
			{Title: "the same with synchronous=NORMAL", Of: Figure{"emit-normal", "ratio_to_counterpart"}, AtLeast: 0.8},
		},
	},
	{
		ID: "sqlite-drain", Title: "SQLite: a backlog to JetStream",
		Text: `The database is a file, the JetStream server a process of its own.`,
		Systems: []System{
			{ID: "limit", Title: "`limit`: the same from memory", Messages: 100_000, Command: outbox("bench limit --broker-url $NATS_URL")},
			{ID: "ours", Title: "**outbox**", Messages: 100_000, Command: outbox("bench drain --broker-url $NATS_URL")},
		},
		Columns: drainColumns,
		Comparisons: []Comparison{
			{Title: "outbox, messages/s", Of: Figure{"ours", Rate}, Unit: PerSecond, AtLeast: 20_000},
			{Title: "outbox to `limit`", Of: Figure{"ours", Rate}, To: Figure{"limit", Rate}},
		},
	},
}
