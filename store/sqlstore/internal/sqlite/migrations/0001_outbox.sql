-- Messages that are committed and not yet confirmed by a broker. Times are
-- microseconds since 1970 in UTC: datetime(created_at / 1000000, 'unixepoch').
CREATE TABLE {message} (
	position     INTEGER PRIMARY KEY AUTOINCREMENT, -- never given by hand: the relay reads upwards
	id           TEXT    NOT NULL DEFAULT ({uuid}) CHECK (length(id) = 36),
	topic        TEXT    NOT NULL CHECK (topic <> ''),
	key          TEXT,                              -- NULL or '': no order
	tenant       TEXT    NOT NULL DEFAULT '',
	type         TEXT    NOT NULL DEFAULT '',
	version      TEXT    NOT NULL DEFAULT '',
	content_type TEXT    NOT NULL DEFAULT 'application/json',
	headers      TEXT    NOT NULL DEFAULT '{}' CHECK (headers = '{}' OR json_type(headers) = 'object'),
	payload      BLOB    NOT NULL,
	created_at   INTEGER NOT NULL DEFAULT ({now}),
	attempts     INTEGER NOT NULL DEFAULT 0,
	last_error   TEXT    NOT NULL DEFAULT '',
	retry_at     INTEGER
);

-- Who drains the only shard, and until when.
CREATE TABLE {lease} (
	shard      INTEGER PRIMARY KEY,
	owner      TEXT,
	token      INTEGER NOT NULL DEFAULT 0,
	expires_at INTEGER NOT NULL DEFAULT 0
);

INSERT INTO {lease} (shard) VALUES (0);

-- The relays that are alive.
CREATE TABLE {relay} (
	id         TEXT    NOT NULL PRIMARY KEY,
	name       TEXT    NOT NULL,
	started_at INTEGER NOT NULL DEFAULT ({now}),
	expires_at INTEGER NOT NULL
);
