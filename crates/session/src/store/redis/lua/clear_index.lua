-- Removes sessions that have ended from the index, and returns how many it removed.
-- ARGV from 2 on: sessions that should have ended, each with its actual expiry, or 0 if it has ended.
local by_end, by_short_id = KEYS[1], KEYS[2]
local until_time = tonumber(ARGV[1])

local removed = 0
for place = 2, #ARGV, 2 do
  local id, expires_at = ARGV[place], ARGV[place + 1]
  local listed = redis.call('ZSCORE', by_end, id)
  if listed and tonumber(listed) <= until_time then
    if expires_at == '0' then
      redis.call('ZREM', by_end, id)
      redis.call('ZREM', by_short_id, id)
      removed = removed + 1
    else
      redis.call('ZADD', by_end, expires_at, id)
    end
  end
end
return removed
