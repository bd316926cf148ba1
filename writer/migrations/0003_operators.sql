-- What becomes of a dead letter: open, retry (somebody asked for it), resolved (a later try was applied),
-- discarded (somebody decided so; the note says why).
ALTER TABLE dead_letters
    ADD COLUMN from_source boolean NOT NULL DEFAULT false,
    -- Of the feed, when the source served the item: its version cannot be made without it.
    ADD COLUMN generation bigint,
    ADD COLUMN state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'retry', 'resolved', 'discarded')),
    ADD COLUMN note text,
    ADD COLUMN state_changed_at timestamptz NOT NULL DEFAULT now();

CREATE INDEX dead_letters_open ON dead_letters (reason) WHERE state IN ('open', 'retry');

-- Who asked for a reconcile, and why; the leader of the synchronizers takes up the newest. They are told apart by random
-- numbers: a database that is restored, or new, must not give one twice.
CREATE TABLE reconcile_requests (
    id       bigint PRIMARY KEY,
    reason   text NOT NULL,
    -- Whether changes may be missing until it is done.
    gap      boolean NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now()
);
