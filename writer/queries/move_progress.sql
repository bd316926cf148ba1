-- Compare and set: a row moves only from where this writer believes it to be. How many moved tells the rest.
UPDATE progress AS stored
SET next_offset = new.next_offset, last_timestamp = new.last_timestamp, last_key_hash = new.last_key_hash
FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
     AS new (topic, partition, expected, next_offset, last_timestamp, last_key_hash)
WHERE stored.topic = new.topic AND stored.partition = new.partition AND stored.next_offset = new.expected
