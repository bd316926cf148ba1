-- The embedded copy: the writer's tables, times in microseconds since the Unix epoch.
-- SQLite compares text by bytes unless told otherwise, which is the version rule.
CREATE TABLE chats (
    id         TEXT PRIMARY KEY,
    title      TEXT,
    created_at INTEGER NOT NULL,
    edited_at  INTEGER,
    deleted_at INTEGER,
    deleted    INTEGER NOT NULL,
    version    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    chat_id    TEXT NOT NULL,
    id         TEXT NOT NULL,
    parent_id  TEXT,
    author     TEXT,
    text       TEXT,
    created_at INTEGER NOT NULL,
    edited_at  INTEGER,
    deleted_at INTEGER,
    deleted    INTEGER NOT NULL,
    version    TEXT NOT NULL,
    PRIMARY KEY (chat_id, id)
) STRICT;

CREATE INDEX messages_by_time ON messages (chat_id, created_at, id);

CREATE TABLE message_versions (
    chat_id   TEXT NOT NULL,
    id        TEXT NOT NULL,
    version   TEXT NOT NULL,
    author    TEXT,
    text      TEXT,
    edited_at INTEGER,
    deleted   INTEGER NOT NULL,
    PRIMARY KEY (chat_id, id, version)
) STRICT;

CREATE TABLE dead_letters (
    digest           TEXT PRIMARY KEY,
    reason           TEXT NOT NULL,
    detail           TEXT NOT NULL,
    topic            TEXT NOT NULL,
    partition        INTEGER NOT NULL,
    "offset"         INTEGER NOT NULL,
    record_key       TEXT,
    raw              TEXT NOT NULL,
    raw_length       INTEGER NOT NULL,
    dead_lettered_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT;

CREATE TABLE progress (
    topic          TEXT NOT NULL,
    partition      INTEGER NOT NULL,
    next_offset    INTEGER NOT NULL,
    last_timestamp INTEGER NOT NULL,
    last_key_hash  INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;
