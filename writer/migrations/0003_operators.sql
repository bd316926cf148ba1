-- What becomes of a dead letter: open, retry (somebody asked for it), resolved (a later try was applied),
-- discarded (somebody decided so; the note says why).
ALTER TABLE dead_letters
    ADD COLUMN from_source boolean NOT NULL DEFAULT false,
    ADD COLUMN state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'retry', 'resolved', 'discarded')),
    ADD COLUMN note text,
    ADD COLUMN state_changed_at timestamptz NOT NULL DEFAULT now();

CREATE INDEX dead_letters_open ON dead_letters (reason) WHERE state IN ('open', 'retry');

-- Who asked for a reconcile, and why; the leader of the synchronizers takes up the newest.
CREATE TABLE reconcile_requests (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason   text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now()
);
