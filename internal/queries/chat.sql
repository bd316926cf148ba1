SELECT id, title, from_micros(created_at), version, deleted
FROM chats
WHERE id = $1
