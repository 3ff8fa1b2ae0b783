-- The audit log. `body` is a record in canonical JSON, empty once the record
-- was let go of; the columns beside it are for searching, and `signature` is
-- of the tree that ends with it.
CREATE TABLE audit_records (
  seq       BIGINT PRIMARY KEY,
  time      BIGINT NOT NULL,
  class     TEXT NOT NULL,
  actor     TEXT NOT NULL, -- kind/id
  action    TEXT NOT NULL,
  outcome   TEXT NOT NULL,
  expires   BIGINT NOT NULL, -- when it may be let go of
  signature TEXT NOT NULL,
  body      BLOB NOT NULL
);
CREATE INDEX audit_records_of_actor ON audit_records (actor, seq);
CREATE INDEX audit_records_by_time ON audit_records (time);

-- The hashes of the tree, as golang.org/x/mod/sumdb/tlog numbers them.
CREATE TABLE audit_hashes (
  position BIGINT PRIMARY KEY,
  hash     BLOB NOT NULL
);

-- One row: how many records there are. Whoever appends has it first.
CREATE TABLE audit_head (
  id   BIGINT PRIMARY KEY,
  size BIGINT NOT NULL
);
INSERT INTO audit_head (id, size) VALUES (1, 0);

-- The ids that records name as objects.
CREATE TABLE audit_objects (
  object TEXT NOT NULL,
  seq    BIGINT NOT NULL,
  PRIMARY KEY (object, seq)
);
