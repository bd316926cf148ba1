INSERT INTO message_versions (chat_id, id, version, author, text, edited_at, deleted)
SELECT chat_id, id, version, author, text, to_micros(edited_at), deleted
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::boolean[])
     AS new (chat_id, id, version, author, text, edited_at, deleted)
-- What was erased has no history, however late it comes.
WHERE NOT EXISTS (SELECT FROM messages AS m WHERE (m.chat_id, m.id) = (new.chat_id, new.id) AND m.version >= 'ffffffff')
ON CONFLICT DO NOTHING
