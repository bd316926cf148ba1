INSERT INTO progress (topic, partition, next_offset, last_timestamp, last_key_hash)
SELECT *
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[])
ON CONFLICT DO NOTHING
