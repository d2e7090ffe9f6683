-- In a transaction whose messages the emitting process hands to its own relay,
-- outbox.wake counts the statements that inserted some: '#0' and so on. It sees by that
-- whether it knows of all of them.
CREATE OR REPLACE FUNCTION {wake}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $wake$
DECLARE
	setting text := current_setting('outbox.wake', true);
BEGIN
	IF setting = 'off' THEN
		RETURN NULL;
	END IF;
	IF setting ~ '^#[0-9]{1,8}$' THEN
		PERFORM set_config('outbox.wake', '#' || (substr(setting, 2)::integer + 1), true);
		RETURN NULL;
	END IF;
	-- By the function, since a query would double what the trigger costs. It is NULL
	-- before the first setval.
	IF pg_sequence_last_value({armed_literal}) IS DISTINCT FROM 2 THEN
		PERFORM pg_notify({channel}, '');
	END IF;
	RETURN NULL;
END
$wake$;
