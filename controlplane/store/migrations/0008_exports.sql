-- Changes of findings and incidents that exporters have not all had yet; kept
-- only where there are exporters. The head of the sequence is a cursor.
CREATE TABLE export_records (
  sequence BIGINT PRIMARY KEY,
  kind     TEXT NOT NULL, -- finding, incident
  id       TEXT NOT NULL,
  recorded BIGINT NOT NULL,
  body     BLOB NOT NULL
);
