SELECT digest, record_key, raw
FROM dead_letters
WHERE raw <> '' AND digest > $3
  AND (position($2 IN raw) > 0 OR record_key = $1 OR starts_with(record_key, $1 || '/'))
ORDER BY digest
LIMIT $4
