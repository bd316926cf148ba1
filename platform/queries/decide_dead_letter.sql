UPDATE dead_letters
SET state = $2, note = coalesce($3, note), state_changed_at = now()
WHERE digest = $1 AND state <> 'resolved'
