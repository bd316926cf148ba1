-- The index is on the first 100,000 characters: a tsvector holds 1 MB at most.
SELECT m.chat_id, m.id, m.author, from_micros(m.created_at),
       ts_headline('simple', left(m.text, 100000), query,
                   'StartSel=' || chr(57344) || ', StopSel=' || chr(57345) || ', MaxWords=26, MinWords=10')
FROM messages AS m
JOIN chats AS c ON c.id = m.chat_id,
     to_tsquery('simple', $1) AS query
WHERE to_tsvector('simple', left(m.text, 100000)) @@ query AND NOT m.deleted AND NOT c.deleted
  AND ($3::text[] IS NULL OR m.chat_id = ANY($3))
ORDER BY m.created_at DESC, m.id DESC
LIMIT $2
