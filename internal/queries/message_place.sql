SELECT from_micros(created_at)
FROM messages
WHERE chat_id = $1 AND id = $2
