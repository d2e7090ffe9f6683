-- What becomes of a message that is not simply sent. An index that is limited by
-- WHERE costs nothing where the rows are not.
ALTER TABLE {message} ADD COLUMN route TEXT NOT NULL DEFAULT '';       -- '': that of all messages
ALTER TABLE {message} ADD COLUMN deliver_at INTEGER;                   -- when it was due, if it was scheduled
ALTER TABLE {message} ADD COLUMN expires_at INTEGER CHECK (expires_at IS NULL OR typeof(expires_at) = 'integer');

CREATE INDEX {message_route} ON {message} (route) WHERE route <> '';
CREATE INDEX {message_retry} ON {message} (retry_at) WHERE retry_at IS NOT NULL;

-- Messages that are not due yet. Only topic, payload and deliver_at are required.
CREATE TABLE {scheduled} (
	place        INTEGER PRIMARY KEY AUTOINCREMENT,
	id           TEXT    NOT NULL DEFAULT ({uuid}) CHECK (length(id) = 36),
	topic        TEXT    NOT NULL CHECK (topic <> ''),
	key          TEXT,
	tenant       TEXT    NOT NULL DEFAULT '',
	type         TEXT    NOT NULL DEFAULT '',
	version      TEXT    NOT NULL DEFAULT '',
	content_type TEXT    NOT NULL DEFAULT 'application/json',
	headers      TEXT    NOT NULL DEFAULT '{}' CHECK (headers = '{}' OR json_type(headers) = 'object'),
	payload      BLOB    NOT NULL,
	created_at   INTEGER NOT NULL DEFAULT ({now}),
	route        TEXT    NOT NULL DEFAULT '',
	deliver_at   INTEGER NOT NULL CHECK (typeof(deliver_at) = 'integer'),
	expires_at   INTEGER CHECK (expires_at IS NULL OR typeof(expires_at) = 'integer')
);

CREATE INDEX {scheduled_due} ON {scheduled} (deliver_at);
CREATE INDEX {scheduled_id} ON {scheduled} (id);

-- Dead letters. The key of one that is parked is held back: its successors join it.
CREATE TABLE {dead} (
	place        INTEGER PRIMARY KEY AUTOINCREMENT,
	position     INTEGER NOT NULL,                  -- that it had, and gets again
	id           TEXT    NOT NULL,
	topic        TEXT    NOT NULL,
	key          TEXT,
	tenant       TEXT    NOT NULL,
	type         TEXT    NOT NULL,
	version      TEXT    NOT NULL,
	content_type TEXT    NOT NULL,
	headers      TEXT    NOT NULL,
	payload      BLOB    NOT NULL,
	created_at   INTEGER NOT NULL,
	route        TEXT    NOT NULL,
	deliver_at   INTEGER,
	expires_at   INTEGER,
	attempts     INTEGER NOT NULL,
	last_error   TEXT    NOT NULL,
	reason       TEXT    NOT NULL,
	parked       INTEGER NOT NULL,
	died_at      INTEGER NOT NULL DEFAULT ({now})
);

CREATE INDEX {dead_id} ON {dead} (id);
CREATE INDEX {dead_parked} ON {dead} (parked, route, tenant, key);

-- The history: messages that were sent, where it is kept.
CREATE TABLE {sent} (
	place        INTEGER PRIMARY KEY,
	position     INTEGER NOT NULL,
	id           TEXT    NOT NULL,
	topic        TEXT    NOT NULL,
	key          TEXT,
	tenant       TEXT    NOT NULL,
	type         TEXT    NOT NULL,
	version      TEXT    NOT NULL,
	content_type TEXT    NOT NULL,
	headers      TEXT    NOT NULL,
	payload      BLOB    NOT NULL,
	created_at   INTEGER NOT NULL,
	route        TEXT    NOT NULL,
	deliver_at   INTEGER,
	expires_at   INTEGER,
	attempts     INTEGER NOT NULL,
	last_error   TEXT    NOT NULL,
	sent_at      INTEGER NOT NULL DEFAULT ({now})
);

CREATE INDEX {sent_at} ON {sent} (sent_at);
CREATE INDEX {sent_id} ON {sent} (id);

-- What is held back: empty names mean any.
CREATE TABLE {pause} (
	topic  TEXT NOT NULL,
	tenant TEXT NOT NULL,
	key    TEXT NOT NULL,
	PRIMARY KEY (topic, tenant, key)
) WITHOUT ROWID;

-- Who drains the shard of each route, until when, and who wants it. Up to the
-- position doubt, messages may have been sent without an answer.
ALTER TABLE {lease} RENAME TO {lease_old};

CREATE TABLE {lease} (
	route        TEXT    NOT NULL DEFAULT '',
	shard        INTEGER NOT NULL,
	owner        TEXT,
	token        INTEGER NOT NULL DEFAULT 0,
	expires_at   INTEGER NOT NULL DEFAULT 0,
	doubt        INTEGER NOT NULL DEFAULT 0,
	wanted_by    TEXT,
	wanted_until INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (route, shard)
) WITHOUT ROWID;

INSERT INTO {lease} (shard, owner, token, expires_at) SELECT shard, owner, token, expires_at FROM {lease_old};

DROP TABLE {lease_old};

ALTER TABLE {relay} ADD COLUMN route TEXT NOT NULL DEFAULT '';
ALTER TABLE {relay} ADD COLUMN rate REAL NOT NULL DEFAULT 0; -- messages a second, of late
