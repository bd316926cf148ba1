-- Without texts: who wrote what is to be erased is told by the rest. Nonsense may stand where the version of an erased row does.
SELECT chat_id, id, parent_id, author, NULL::text, from_micros(created_at), NULL::bigint, NULL::bigint, version
FROM messages
WHERE chat_id = $1 AND id > $2 AND (version < 'ffffffff' OR text IS NOT NULL OR author IS NOT NULL)
ORDER BY id
LIMIT $3
