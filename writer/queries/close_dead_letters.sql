-- What failed is added to what was noted before: a discard's reason is kept.
UPDATE dead_letters AS letter
SET state = new.state, state_changed_at = now(),
    note = CASE WHEN right(letter.note, length(new.note)) = new.note THEN letter.note
                ELSE concat_ws('; ', letter.note, new.note) END
FROM unnest($1::text[], $2::text[], $3::text[]) AS new (digest, state, note)
WHERE letter.digest = new.digest
