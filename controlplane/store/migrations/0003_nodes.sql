-- An incident may be a node's: it has no run until it hits one.
ALTER TABLE incidents ADD COLUMN node TEXT NOT NULL DEFAULT '';
CREATE INDEX incidents_of_node ON incidents (node, opened) WHERE node <> '';

-- Problems of nodes that are not over: `problem` names it, `body` is its last
-- finding. The incident that it belongs to is the finding's.
CREATE TABLE node_problems (
  node       TEXT NOT NULL,
  problem    TEXT NOT NULL,
  finding_id TEXT NOT NULL,
  event_time BIGINT NOT NULL,
  body       BLOB NOT NULL,
  PRIMARY KEY (node, problem)
);

-- When frames came, one now and then, so that the last hour of the bus can be
-- found again.
CREATE TABLE replay_marks (
  sequence BIGINT PRIMARY KEY,
  received BIGINT NOT NULL
);
