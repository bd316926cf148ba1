SELECT id, title, from_micros(created_at), from_micros(edited_at), from_micros(deleted_at), version
FROM chats
WHERE id = $1
