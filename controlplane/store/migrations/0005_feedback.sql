-- What people say of findings: the last word on each.
CREATE TABLE feedback (
  finding_id TEXT PRIMARY KEY,
  body       BLOB NOT NULL
);

-- Lists of findings, the newest first, of all runs and of one.
CREATE INDEX findings_by_time ON findings (event_time);
CREATE INDEX findings_of_run ON findings (run_id, event_time);
