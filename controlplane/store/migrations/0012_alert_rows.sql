-- Alerts from elsewhere mostly have no run: they need no place in an index of
-- runs. That of open incidents is used by no query.
DROP INDEX incidents_open;
DROP INDEX incidents_of_run;
CREATE INDEX incidents_of_run ON incidents (run_id, opened) WHERE run_id <> '';

-- What waits for one receiver, without passing what waits for others.
CREATE INDEX outbox_of_receiver ON outbox (receiver, created) WHERE state = 1;
