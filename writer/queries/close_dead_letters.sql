-- What failed is added to what was noted before: a discard's reason is kept. Of what was erased nothing is.
UPDATE dead_letters AS letter
SET state = new.state, state_changed_at = now(),
    raw = CASE WHEN new.erased THEN '' ELSE letter.raw END,
    detail = CASE WHEN new.erased THEN '' ELSE letter.detail END,
    note = CASE WHEN new.erased THEN new.note
                WHEN right(letter.note, length(new.note)) = new.note THEN letter.note
                ELSE concat_ws('; ', letter.note, new.note) END
FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[]) AS new (digest, state, note, erased)
WHERE letter.digest = new.digest
