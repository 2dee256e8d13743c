-- Removes sessions from the index, unless they ended before a time: clear_index.lua counts those.
-- ARGV from 2 on: the sessions.
local by_end, by_short_id = KEYS[1], KEYS[2]
local ended_before = tonumber(ARGV[1])

for place = 2, #ARGV do
  local id = ARGV[place]
  local expires_at = redis.call('ZSCORE', by_end, id)
  if expires_at and tonumber(expires_at) >= ended_before then
    redis.call('ZREM', by_end, id)
    redis.call('ZREM', by_short_id, id)
  end
end
return 1
