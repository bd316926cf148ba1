INSERT INTO messages AS stored
       (chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, deleted, version)
SELECT chat_id, id, parent_id, author, text, to_micros(created_at), to_micros(edited_at), to_micros(deleted_at),
       deleted, version
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::boolean[], $10::text[])
     AS new (chat_id, id, parent_id, author, text, created_at, edited_at, deleted_at, deleted, version)
ON CONFLICT (chat_id, id) DO UPDATE
SET parent_id = excluded.parent_id,
    author = excluded.author,
    text = excluded.text,
    created_at = excluded.created_at,
    edited_at = excluded.edited_at,
    deleted_at = excluded.deleted_at,
    deleted = excluded.deleted,
    version = excluded.version
WHERE excluded.version > stored.version
