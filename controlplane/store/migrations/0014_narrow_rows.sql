-- Rows that are found by their key alone lie in it: one place to write for
-- each, not two. A member of a group lies with its incident, those that are made
-- together beside one another.
CREATE TABLE narrow_timeline (
  incident_id TEXT NOT NULL,
  position    BIGINT NOT NULL,
  body        BLOB NOT NULL,
  PRIMARY KEY (incident_id, position)
) WITHOUT ROWID;
INSERT INTO narrow_timeline (incident_id, position, body)
  SELECT incident_id, position, body FROM timeline ORDER BY incident_id, position;
DROP TABLE timeline;
ALTER TABLE narrow_timeline RENAME TO timeline;

CREATE TABLE narrow_members (
  incident_id   TEXT NOT NULL,
  group_id      TEXT NOT NULL,
  told          BIGINT NOT NULL, -- the incident's state that was told; 0 while none was
  told_severity BIGINT NOT NULL,
  PRIMARY KEY (incident_id, group_id)
) WITHOUT ROWID;
INSERT INTO narrow_members (incident_id, group_id, told, told_severity)
  SELECT incident_id, group_id, told, told_severity FROM alert_members ORDER BY incident_id, group_id;
DROP TABLE alert_members;
ALTER TABLE narrow_members RENAME TO alert_members;
CREATE INDEX alert_members_of_group ON alert_members (group_id);

-- Those that are not over are in one index, by when they are.
DROP INDEX incidents_all_open;
DROP INDEX incidents_expiring;
CREATE INDEX incidents_open ON incidents (expires) WHERE resolved = 0;
