-- What nodes join with; of the secret only the hash is here.
CREATE TABLE join_tokens (
  token_id TEXT PRIMARY KEY,
  hash     BLOB NOT NULL,
  node     TEXT NOT NULL,   -- the only one that may use it; empty is any
  expires  BIGINT NOT NULL,
  uses     BIGINT NOT NULL  -- that are left
);

CREATE TABLE node_certificates (
  serial  TEXT PRIMARY KEY,
  node    TEXT NOT NULL,
  issued  BIGINT NOT NULL,
  expires BIGINT NOT NULL,
  revoked BIGINT NOT NULL -- 0 while it is not
);
CREATE INDEX node_certificates_of_node ON node_certificates (node, expires);
CREATE INDEX node_certificates_revoked ON node_certificates (revoked) WHERE revoked <> 0;
