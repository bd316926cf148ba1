-- The same content is one letter. One that was resolved and comes again is open again.
INSERT INTO dead_letters AS letter
       (digest, reason, detail, topic, partition, "offset", record_key, raw, raw_length, from_source,
        generation)
SELECT *
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::text[], $8::text[],
            $9::bigint[], $10::boolean[], $11::bigint[])
ON CONFLICT (digest) DO UPDATE
SET state = 'open', state_changed_at = now()
WHERE letter.state = 'resolved'
