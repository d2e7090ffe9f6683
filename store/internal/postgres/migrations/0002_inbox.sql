-- Messages that were handled, each in the transaction of its effects. Only ever
-- inserted and purged.
CREATE TABLE {inbox} (
	consumer    text COLLATE "C" NOT NULL,
	message_id  text COLLATE "C" NOT NULL,
	received_at timestamptz      NOT NULL DEFAULT clock_timestamp(),
	CONSTRAINT {inbox_pk} PRIMARY KEY (consumer, message_id)
) WITH (
	-- A purge passes over what the ones before have deleted, until it is vacuumed.
	autovacuum_vacuum_scale_factor = 0.01,
	autovacuum_vacuum_threshold = 10000
);

-- Not BRIN: its ranges stay as old as their oldest row ever was, so that a purge
-- would look into all pages that it has emptied before.
CREATE INDEX {inbox_received} ON {inbox} (received_at);
