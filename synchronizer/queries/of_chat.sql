SELECT chat_id, id, parent_id, author, text, from_micros(created_at), from_micros(edited_at),
       from_micros(deleted_at), version
FROM messages
WHERE chat_id = $1
