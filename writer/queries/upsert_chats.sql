INSERT INTO chats AS stored (id, title, created_at, edited_at, deleted_at, deleted, version)
SELECT id, title, to_micros(created_at), to_micros(edited_at), to_micros(deleted_at), deleted, version
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::text[])
     AS new (id, title, created_at, edited_at, deleted_at, deleted, version)
ON CONFLICT (id) DO UPDATE
SET title = excluded.title,
    created_at = excluded.created_at,
    edited_at = excluded.edited_at,
    deleted_at = excluded.deleted_at,
    deleted = excluded.deleted,
    version = excluded.version
WHERE excluded.version > stored.version
