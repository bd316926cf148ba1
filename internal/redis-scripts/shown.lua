-- Takes note of how far readers of one chat were shown its log. A position is never taken back.
--
-- KEYS  [1] chat-sync<suffix>:{<chat id>}:shown, a hash: "<topic> <reader>" -> "<offset> <second>"
-- ARGV  [1] time to live in seconds, [2] now in seconds since the Unix epoch, then for each reader and topic the
--       field and the offset below which it was shown everything
-- Result: none
--
-- EVALSHA <sha> 1 chat-sync:{c1}:shown 86400 1795000000 "chat-changes ada" 42
--
-- The second is when the reader was heard of last; whoever reads the hash drops those that are too old. Offsets are
-- compared as numbers: below 2^53 they are exact.
for i = 3, #ARGV, 2 do
  local field, offset = ARGV[i], tonumber(ARGV[i + 1])
  local stored = redis.call('HGET', KEYS[1], field)
  local known = stored and tonumber(string.match(stored, '^%d+')) or 0
  redis.call('HSET', KEYS[1], field, string.format('%.0f %s', math.max(known, offset), ARGV[2]))
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
