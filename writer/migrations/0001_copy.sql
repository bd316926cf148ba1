-- The copy. Versions are compared as byte strings, hence the collation "C".
-- fillfactor leaves room on each page, so that an update stays on it (HOT) and touches no index.

CREATE TABLE chats (
    id         text COLLATE "C" PRIMARY KEY,
    title      text,
    created_at timestamptz NOT NULL,
    edited_at  timestamptz,
    deleted_at timestamptz,
    deleted    boolean NOT NULL,
    version    text COLLATE "C" NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE messages (
    chat_id    text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    parent_id  text,
    author     text,
    text       text,
    created_at timestamptz NOT NULL,
    edited_at  timestamptz,
    deleted_at timestamptz,
    deleted    boolean NOT NULL,
    version    text COLLATE "C" NOT NULL,
    PRIMARY KEY (chat_id, id)
) WITH (fillfactor = 70);

-- A chat's last messages. created_at does not change with an edit, so this does not stand in the way of HOT.
CREATE INDEX messages_by_time ON messages (chat_id, created_at, id);

-- Every version of every message that ever came by: what stands behind "edited (2)".
CREATE TABLE message_versions (
    chat_id   text COLLATE "C" NOT NULL,
    id        text COLLATE "C" NOT NULL,
    version   text COLLATE "C" NOT NULL,
    author    text,
    text      text,
    edited_at timestamptz,
    deleted   boolean NOT NULL,
    PRIMARY KEY (chat_id, id, version)
);

-- Records that could not be applied, each with its reason; one row for each different content.
CREATE TABLE dead_letters (
    digest           text COLLATE "C" PRIMARY KEY,
    reason           text NOT NULL,
    detail           text NOT NULL,
    topic            text NOT NULL,
    partition        integer NOT NULL,
    "offset"         bigint NOT NULL,
    record_key       text,
    raw              text NOT NULL,
    raw_length       bigint NOT NULL,
    dead_lettered_at timestamptz NOT NULL DEFAULT now()
);

-- Every record below next_offset is applied, superseded or dead-lettered. The last record's timestamp and key
-- tell whether the log is still the same one.
CREATE TABLE progress (
    topic          text COLLATE "C" NOT NULL,
    partition      integer NOT NULL,
    next_offset    bigint NOT NULL,
    last_timestamp bigint NOT NULL,
    last_key_hash  bigint NOT NULL,
    PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);
