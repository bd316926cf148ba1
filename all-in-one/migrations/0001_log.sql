-- The embedded log.
CREATE TABLE log_topics (
    name       TEXT PRIMARY KEY,
    partitions INTEGER NOT NULL,
    compacted  INTEGER NOT NULL
) STRICT;

CREATE TABLE log_ends (
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    -- The first offset that is kept, and the next to be given.
    first     INTEGER NOT NULL,
    next      INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;

CREATE TABLE log_records (
    topic        TEXT NOT NULL,
    partition    INTEGER NOT NULL,
    "offset"     INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    key          BLOB,
    value        BLOB NOT NULL,
    headers      TEXT NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
) STRICT;
