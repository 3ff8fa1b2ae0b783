-- Control planes that share the records. One whose beat stands still is dead.
CREATE TABLE replicas (
  replica_id TEXT PRIMARY KEY,
  beat       BIGINT NOT NULL,
  started    BIGINT NOT NULL,
  address    TEXT NOT NULL -- where people reach it
);

-- What one control plane does at a time. No owner is ''; `epoch` counts them.
CREATE TABLE leases (
  name  TEXT PRIMARY KEY,
  owner TEXT NOT NULL,
  epoch BIGINT NOT NULL
);

-- When what must keep arriving was last heard of.
CREATE TABLE heard (
  name TEXT PRIMARY KEY,
  at   BIGINT NOT NULL
);
