-- What delivery keeps beside the outbox's rows: when a notification that had
-- been given up was replayed; the notification in whose place it tells another
-- receiver; and where in the incident's timeline its tries are told, 0 while
-- they are not.
ALTER TABLE outbox ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN stands_in_for TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN told BIGINT NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN failed BIGINT NOT NULL DEFAULT 0; -- when it was given up
CREATE UNIQUE INDEX outbox_stand_ins ON outbox (stands_in_for) WHERE stands_in_for <> '';
CREATE INDEX outbox_failed ON outbox (failed) WHERE state = 3;

-- What receivers must know of an incident later: the id of its message, its
-- annotation, its alert.
CREATE TABLE receiver_memory (
  receiver TEXT NOT NULL,
  key      TEXT NOT NULL,
  value    TEXT NOT NULL,
  PRIMARY KEY (receiver, key)
);
