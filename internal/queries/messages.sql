-- The last $4 messages before ($2, $3), newest first.
SELECT chat_id, id, parent_id, author, text, from_micros(created_at), from_micros(edited_at), deleted, version
FROM messages
WHERE chat_id = $1 AND (created_at, id) < (to_micros($2), $3)
ORDER BY created_at DESC, id DESC
LIMIT $4
