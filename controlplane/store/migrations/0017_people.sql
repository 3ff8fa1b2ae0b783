-- The keys of the records, encrypted with the outer key: one row.
CREATE TABLE record_keys (
  id      BIGINT PRIMARY KEY,
  written BIGINT NOT NULL,
  body    BLOB NOT NULL
);

-- Who the audit log's actors are. A subject's key encrypts what records say of
-- them; without it that cannot be read. key, profile and email are empty once a
-- subject was erased.
CREATE TABLE people (
  subject TEXT PRIMARY KEY, -- kind/id
  key_id  TEXT NOT NULL,
  key     BLOB NOT NULL,    -- encrypted with the records' key
  profile BLOB NOT NULL,    -- encrypted with the subject's key; empty while nothing is known
  email   TEXT NOT NULL,    -- a keyed digest of it, for finding them
  created BIGINT NOT NULL,
  changed BIGINT NOT NULL,
  erased  BIGINT NOT NULL   -- 0 while they are not
);
CREATE INDEX people_by_email ON people (email) WHERE email <> '';

-- The local administrator; of the secret only the hash is here. One row.
CREATE TABLE local_admin (
  id      BIGINT PRIMARY KEY,
  hash    BLOB NOT NULL,
  created BIGINT NOT NULL
);
