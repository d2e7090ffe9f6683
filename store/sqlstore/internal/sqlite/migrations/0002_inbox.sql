-- Messages that were handled, each in the transaction of its effects. Only ever
-- inserted and purged.
CREATE TABLE {inbox} (
	consumer    TEXT    NOT NULL,
	message_id  TEXT    NOT NULL,
	received_at INTEGER NOT NULL DEFAULT ({now}),
	PRIMARY KEY (consumer, message_id)
);

CREATE INDEX {inbox_received} ON {inbox} (received_at);
