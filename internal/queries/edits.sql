SELECT v.id, max(v.version), count(DISTINCT v.text)
FROM message_versions AS v
WHERE v.chat_id = $1 AND v.id = ANY($2) AND NOT v.deleted
GROUP BY v.id
