SELECT reason, state, count(*), min(from_micros(dead_lettered_at)), max(from_micros(dead_lettered_at))
FROM dead_letters
GROUP BY reason, state
ORDER BY state, reason
