-- As the writer's migration of the same number.
ALTER TABLE dead_letters ADD COLUMN from_source INTEGER NOT NULL DEFAULT 0;
ALTER TABLE dead_letters ADD COLUMN generation INTEGER;
ALTER TABLE dead_letters ADD COLUMN state TEXT NOT NULL DEFAULT 'open'
    CHECK (state IN ('open', 'retry', 'resolved', 'discarded'));
ALTER TABLE dead_letters ADD COLUMN note TEXT;
ALTER TABLE dead_letters ADD COLUMN state_changed_at INTEGER NOT NULL DEFAULT 0;

CREATE INDEX dead_letters_open ON dead_letters (reason) WHERE state IN ('open', 'retry');

CREATE TABLE reconcile_requests (
    id       INTEGER PRIMARY KEY,
    reason   TEXT NOT NULL,
    gap      INTEGER NOT NULL,
    asked_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;
