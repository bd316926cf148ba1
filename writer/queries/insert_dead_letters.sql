INSERT INTO dead_letters (digest, reason, detail, topic, partition, "offset", record_key, raw, raw_length)
SELECT *
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::text[], $8::text[],
            $9::bigint[])
ON CONFLICT DO NOTHING
