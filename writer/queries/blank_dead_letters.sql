-- That there was a letter stays, and why it was one. First the few that can be meant: a chat's erasure brings thousands of
-- rows, and a letter may be long.
WITH erased AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS erased (key, chat, message)
), meant AS MATERIALIZED (
    SELECT digest, record_key, raw
    FROM dead_letters
    WHERE raw <> ''
      AND (record_key IN (SELECT key FROM erased)
           OR EXISTS (SELECT FROM (SELECT DISTINCT chat FROM erased) AS chats WHERE position(chats.chat IN raw) > 0))
)
UPDATE dead_letters AS letter
SET raw = '', detail = '', state = 'discarded', note = 'erased', state_changed_at = now()
FROM meant, erased
WHERE letter.digest = meant.digest
  AND (meant.record_key = erased.key
       OR position(erased.chat IN meant.raw) > 0
          AND (erased.message IS NULL OR position(erased.message IN meant.raw) > 0))
