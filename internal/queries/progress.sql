SELECT topic, partition, next_offset, last_timestamp, last_key_hash
FROM progress
