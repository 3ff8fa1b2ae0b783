-- What programs come in with; of its secret only the hash is here. `body` is a
-- Token.
CREATE TABLE access_tokens (
  token_id TEXT PRIMARY KEY,
  hash     BLOB NOT NULL,
  created  BIGINT NOT NULL,
  body     BLOB NOT NULL
);
