UPDATE dead_letters
SET state = $2, note = $3, state_changed_at = now()
WHERE digest = $1 AND state <> 'resolved'
