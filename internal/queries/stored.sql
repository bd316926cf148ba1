SELECT chat_id, id, parent_id, author, text, from_micros(created_at), from_micros(edited_at), deleted, version
FROM messages
JOIN unnest($1::text[], $2::text[]) AS wanted (chat_id, id) USING (chat_id, id)
