UPDATE dead_letters AS letter
SET state = new.state, note = coalesce(new.note, letter.note), state_changed_at = now()
FROM unnest($1::text[], $2::text[], $3::text[]) AS new (digest, state, note)
WHERE letter.digest = new.digest
