-- What agents note while the ranks of a run agree on a checkpoint. A note is
-- written once; place grows within a run.
CREATE TABLE agreement_notes (
  run_id  TEXT NOT NULL,
  round   BIGINT NOT NULL,
  name    TEXT NOT NULL,
  place   BIGINT NOT NULL,
  content BLOB NOT NULL,
  written BIGINT NOT NULL,
  PRIMARY KEY (run_id, round, name)
);
CREATE UNIQUE INDEX agreement_notes_in_order ON agreement_notes (run_id, place);
CREATE INDEX agreement_notes_by_age ON agreement_notes (written);
