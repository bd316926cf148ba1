-- That there was a letter stays, and why it was one.
UPDATE dead_letters AS letter
SET raw = '', detail = '', state = 'discarded', note = 'erased', state_changed_at = now()
FROM unnest($1::text[], $2::text[], $3::text[]) AS erased (key, chat, message)
WHERE letter.raw <> ''
  AND (letter.record_key = erased.key
       OR position(erased.chat IN letter.raw) > 0
          AND (erased.message IS NULL OR position(erased.message IN letter.raw) > 0))
