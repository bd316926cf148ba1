SELECT v.version, v.text, v.deleted
FROM message_versions AS v
JOIN messages AS m ON (m.chat_id, m.id) = (v.chat_id, v.id)
JOIN chats AS c ON c.id = m.chat_id
WHERE v.chat_id = $1 AND v.id = $2 AND NOT m.deleted AND NOT c.deleted AND m.version < 'ffffffff'
ORDER BY v.version
