-- External alerts are incidents too, known by their fingerprint; they are over
-- at `expires` unless they are heard of again. `reopened` counts for flapping.
ALTER TABLE incidents ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
ALTER TABLE incidents ADD COLUMN expires BIGINT NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN reopened BIGINT NOT NULL DEFAULT 0;
ALTER TABLE incidents ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX incidents_external ON incidents (fingerprint, opened) WHERE fingerprint <> '';
CREATE INDEX incidents_expiring ON incidents (expires) WHERE expires <> 0 AND resolved = 0;
CREATE INDEX incidents_all_open ON incidents (opened) WHERE resolved = 0;

-- A notification may tell of a group; `body` is a GroupNotification.
ALTER TABLE outbox ADD COLUMN group_key TEXT NOT NULL DEFAULT '';
ALTER TABLE outbox ADD COLUMN body BLOB NOT NULL DEFAULT x'';
UPDATE outbox SET group_key = incident_id;
CREATE INDEX outbox_of_group ON outbox (group_key, receiver, position);

-- Groups of alerts of one route and one receiver, and when each is due.
CREATE TABLE alert_groups (
  group_id TEXT PRIMARY KEY,
  route    TEXT NOT NULL,   -- the route's id
  receiver TEXT NOT NULL,
  labels   TEXT NOT NULL,   -- JSON
  due      BIGINT NOT NULL, -- when it is looked at next
  looked   BIGINT NOT NULL, -- when it was last; 0 while it was not
  told     BIGINT NOT NULL  -- when it was last told; 0 while it was not
);
CREATE INDEX alert_groups_due ON alert_groups (due);

-- The alerts of a group, and what was told of each: the notification log.
CREATE TABLE alert_members (
  group_id      TEXT NOT NULL,
  incident_id   TEXT NOT NULL,
  told          BIGINT NOT NULL, -- the incident's state that was told; 0 while none was
  told_severity BIGINT NOT NULL,
  PRIMARY KEY (group_id, incident_id)
);
CREATE INDEX alert_members_of_incident ON alert_members (incident_id);

-- Firing alerts that inhibit others: by inhibition rule and equal labels.
CREATE TABLE inhibitors (
  rule        TEXT NOT NULL,
  equal       TEXT NOT NULL,
  incident_id TEXT NOT NULL,
  PRIMARY KEY (rule, equal, incident_id)
);
CREATE INDEX inhibitors_of_incident ON inhibitors (incident_id);

CREATE TABLE silences (
  silence_id TEXT PRIMARY KEY,
  starts     BIGINT NOT NULL,
  ends       BIGINT NOT NULL,
  body       BLOB NOT NULL
);
CREATE INDEX silences_by_end ON silences (ends);

-- What is told next unless somebody acknowledges, and what must keep arriving.
CREATE TABLE timers (
  kind   TEXT NOT NULL, -- escalation, heartbeat, expect
  name   TEXT NOT NULL,
  target TEXT NOT NULL, -- the incident, for an escalation
  step   BIGINT NOT NULL,
  due    BIGINT NOT NULL,
  PRIMARY KEY (kind, name, target)
);
CREATE INDEX timers_due ON timers (due);
CREATE INDEX timers_of_target ON timers (target);
