-- Judges rows against the newest ones known and keeps the newer of each.
--
-- KEYS  one per row, all of one chat: chat-sync<suffix>:{<chat id>}:m:<message id>
-- ARGV  [1] time to live in seconds, then for each row its version (66 hex digits) and the row (JSON)
-- Result, for each row in turn: "newer" | "equal" | "absent" | the stored row (it is newer than the one given)
--
-- EVALSHA <sha> 1 chat-sync:{c1}:m:m1 86400 0000…01 {"id":"m1",…}  ->  1) "absent"
--
-- A key holds the version, then the row. Versions have one length and are lower-case hex, so `>` on them is
-- "newer". Redis compares strings by strcoll, and digits sort before a-f in every locale.
local ttl = tonumber(ARGV[1])
local answers = {}
for i, key in ipairs(KEYS) do
  local version, row = ARGV[2 * i], ARGV[2 * i + 1]
  local stored = redis.call('GET', key)
  if not stored then
    redis.call('SET', key, version .. row, 'EX', ttl)
    answers[i] = 'absent'
  else
    local known = string.sub(stored, 1, 66)
    if version > known then
      redis.call('SET', key, version .. row, 'EX', ttl)
      answers[i] = 'newer'
    elseif version == known then
      answers[i] = 'equal'
    else
      answers[i] = string.sub(stored, 67)
    end
  end
end
return answers
