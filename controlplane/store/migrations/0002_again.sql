-- An incident whose problem comes again is the same incident: how often it
-- came, the finding that it came with last, and when the event happened that
-- resolved it.
ALTER TABLE incidents ADD COLUMN occurrences BIGINT NOT NULL DEFAULT 1;
ALTER TABLE incidents ADD COLUMN latest TEXT NOT NULL DEFAULT '';
ALTER TABLE incidents ADD COLUMN resolved_event BIGINT NOT NULL DEFAULT 0;

-- Runs that were launched again after their end, and when.
CREATE TABLE relaunches (
  run_id   TEXT PRIMARY KEY,
  launched BIGINT NOT NULL
);
