DELETE FROM message_versions AS v
USING unnest($1::text[], $2::text[]) AS erased (chat_id, id)
WHERE (v.chat_id, v.id) = (erased.chat_id, erased.id)
