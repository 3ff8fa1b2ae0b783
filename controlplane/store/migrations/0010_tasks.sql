-- What agents do with checkpoints that were saved. `task_id` is the id of the
-- command that has an agent do it.
CREATE TABLE checkpoint_tasks (
  task_id       TEXT PRIMARY KEY,
  checkpoint_id TEXT NOT NULL,
  created       BIGINT NOT NULL,
  body          BLOB NOT NULL
);
CREATE INDEX checkpoint_tasks_of_checkpoint ON checkpoint_tasks (checkpoint_id, created);
