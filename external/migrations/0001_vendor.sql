-- The feed: which generation it is, the last sequence given, and what cursors are sealed with.
CREATE TABLE vendor_feed (
    only_row   INTEGER PRIMARY KEY CHECK (only_row = 1),
    generation INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,
    seal       INTEGER NOT NULL
) STRICT;

-- Times are microseconds since the Unix epoch.
CREATE TABLE vendor_chats (
    id         TEXT PRIMARY KEY,
    title      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    edited_at  INTEGER,
    deleted_at INTEGER,
    sequence   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE vendor_messages (
    chat_id    TEXT NOT NULL,
    id         TEXT NOT NULL,
    parent_id  TEXT,
    author     TEXT NOT NULL,
    text       TEXT,
    created_at INTEGER NOT NULL,
    edited_at  INTEGER,
    deleted_at INTEGER,
    sequence   INTEGER NOT NULL,
    PRIMARY KEY (chat_id, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX vendor_messages_by_time ON vendor_messages (chat_id, created_at, id);

-- Every change as it was served: a row's whole state at that sequence.
CREATE TABLE vendor_changes (
    sequence INTEGER PRIMARY KEY,
    body     TEXT NOT NULL
) STRICT;

-- How many lines of a replayed log are done.
CREATE TABLE vendor_replays (
    files TEXT PRIMARY KEY,
    lines INTEGER NOT NULL
) STRICT;
