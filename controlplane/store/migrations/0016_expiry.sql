-- What lets go of old records finds what belongs to them without reading all.
CREATE INDEX commands_of_run ON commands (run_id);
CREATE INDEX incident_checkpoints_of_incident ON incident_checkpoints (incident_id);
CREATE INDEX node_problems_of_finding ON node_problems (finding_id);

-- 1: it also lets in a node that has joined before.
ALTER TABLE join_tokens ADD COLUMN rejoins BIGINT NOT NULL DEFAULT 0;
