SELECT digest, reason, detail, state, note, topic, partition::bigint AS partition, "offset" AS record_offset,
       record_key, from_source, raw, raw_length, from_micros(dead_lettered_at) AS micros
FROM dead_letters
WHERE ($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR state = $2)
  AND ($3::text IS NULL OR starts_with(digest, $3))
ORDER BY dead_lettered_at DESC, digest
LIMIT $4
