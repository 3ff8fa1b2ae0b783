-- Members name their group by a place that sorts by when the group was made: what
-- many new groups add to the index of members lies together. A group's id is a
-- hash, each on a page of its own.
ALTER TABLE alert_groups ADD COLUMN place TEXT NOT NULL DEFAULT '';
UPDATE alert_groups SET place = group_id;
CREATE UNIQUE INDEX alert_groups_by_place ON alert_groups (place);
ALTER TABLE alert_members RENAME COLUMN group_id TO place;
