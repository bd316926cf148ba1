SELECT id, title, from_micros(created_at), version
FROM chats
WHERE NOT deleted
ORDER BY created_at, id
