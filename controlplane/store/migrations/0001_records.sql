-- Records are control/v1 messages in `body`; a column stands beside it only
-- where a query needs one. Times are nanoseconds since 1970, 0 when absent.

CREATE TABLE nodes (
  name TEXT PRIMARY KEY,
  body BLOB NOT NULL
);

CREATE TABLE runs (
  run_id         TEXT PRIMARY KEY,
  ended          BIGINT NOT NULL,
  started        BIGINT NOT NULL,
  first_sequence BIGINT NOT NULL, -- place of the run's first event on the bus
  body           BLOB NOT NULL
);
CREATE INDEX runs_newest ON runs (started);
CREATE INDEX runs_open ON runs (first_sequence) WHERE ended = 0;

CREATE TABLE attempts (
  run_id  TEXT NOT NULL,
  attempt BIGINT NOT NULL,
  body    BLOB NOT NULL,
  PRIMARY KEY (run_id, attempt)
);

CREATE TABLE checkpoints (
  checkpoint_id TEXT PRIMARY KEY,
  run_id        TEXT NOT NULL,
  created       BIGINT NOT NULL,
  body          BLOB NOT NULL
);
CREATE INDEX checkpoints_newest ON checkpoints (created);
CREATE INDEX checkpoints_of_run ON checkpoints (run_id, created);

-- What each rank said: bit s of `said` is set when it reached state s; and the
-- bytes of its part.
CREATE TABLE checkpoint_ranks (
  checkpoint_id TEXT NOT NULL,
  rank          BIGINT NOT NULL,
  said          BIGINT NOT NULL,
  size_bytes    BIGINT NOT NULL,
  PRIMARY KEY (checkpoint_id, rank)
);

-- How many ranks reached a state or went past it, and when the last one said
-- so; 0 when nobody said it.
CREATE TABLE checkpoint_stages (
  checkpoint_id TEXT NOT NULL,
  state         BIGINT NOT NULL,
  ranks         BIGINT NOT NULL,
  reached       BIGINT NOT NULL,
  PRIMARY KEY (checkpoint_id, state)
);

CREATE TABLE commands (
  command_id      TEXT PRIMARY KEY,
  idempotency_key TEXT NOT NULL UNIQUE,
  node            TEXT NOT NULL,
  run_id          TEXT NOT NULL,
  checkpoint_id   TEXT NOT NULL,
  state           BIGINT NOT NULL,
  created         BIGINT NOT NULL,
  deadline        BIGINT NOT NULL,
  error           TEXT NOT NULL,
  body            BLOB NOT NULL
);
CREATE INDEX commands_open ON commands (node, created) WHERE state < 10;
CREATE INDEX commands_of_checkpoint ON commands (checkpoint_id);

CREATE TABLE findings (
  finding_id  TEXT PRIMARY KEY,
  incident_id TEXT NOT NULL, -- '' while it belongs to none
  run_id      TEXT NOT NULL,
  onset_step  BIGINT NOT NULL,
  severity    BIGINT NOT NULL,
  event_time  BIGINT NOT NULL,
  body        BLOB NOT NULL
);
CREATE INDEX findings_of_incident ON findings (incident_id, onset_step, severity DESC, event_time, finding_id);

CREATE TABLE incidents (
  incident_id   TEXT PRIMARY KEY,
  run_id        TEXT NOT NULL,
  attempt       BIGINT NOT NULL,
  onset_step    BIGINT NOT NULL,
  finding_count BIGINT NOT NULL,
  state         BIGINT NOT NULL,
  opened        BIGINT NOT NULL,
  resolved      BIGINT NOT NULL,
  body          BLOB NOT NULL
);
CREATE INDEX incidents_newest ON incidents (opened);
CREATE INDEX incidents_of_run ON incidents (run_id, opened);
CREATE INDEX incidents_open ON incidents (run_id) WHERE resolved = 0;

CREATE TABLE timeline (
  incident_id TEXT NOT NULL,
  position    BIGINT NOT NULL,
  body        BLOB NOT NULL,
  PRIMARY KEY (incident_id, position)
);

-- Checkpoints that an incident waits for; bit s of `noted` is set when its
-- timeline tells that state s was reached.
CREATE TABLE incident_checkpoints (
  checkpoint_id TEXT PRIMARY KEY,
  incident_id   TEXT NOT NULL,
  noted         BIGINT NOT NULL
);

CREATE TABLE outbox (
  notification_id TEXT PRIMARY KEY,
  incident_id     TEXT NOT NULL,
  receiver        TEXT NOT NULL,
  position        BIGINT NOT NULL, -- order among those of one incident and receiver
  incident_state  BIGINT NOT NULL,
  state           BIGINT NOT NULL,
  tries           BIGINT NOT NULL,
  created         BIGINT NOT NULL,
  not_before      BIGINT NOT NULL,
  leased_until    BIGINT NOT NULL,
  delivered       BIGINT NOT NULL,
  traceparent     TEXT NOT NULL,
  error           TEXT NOT NULL,
  UNIQUE (incident_id, receiver, position)
);
CREATE INDEX outbox_pending ON outbox (created) WHERE state = 1;

CREATE TABLE cursors (
  name     TEXT PRIMARY KEY,
  sequence BIGINT NOT NULL
);
