-- Adds a batch of statistics, and its sessions to the index. A batch that is sent twice counts once.
-- ARGV from 12 on: the names of the counts, then their values; the sessions that were written, each with its expiry;
-- the sessions that were deleted.
local by_end, by_short_id = KEYS[1], KEYS[2]
local counts = { KEYS[3], KEYS[4], KEYS[5] }
local active = { KEYS[6], KEYS[7] }
local last_batch = KEYS[8]
-- The seconds that KEYS from 3 to 8 are kept.
local ages = { ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] }
local prefix, one_server = ARGV[7], ARGV[8]
local batch = ARGV[9]
local fields, seen = tonumber(ARGV[10]), tonumber(ARGV[11])

if tonumber(redis.call('GET', last_batch) or 0) < tonumber(batch) then
  redis.call('SET', last_batch, batch)
  for field = 1, fields do
    local name, value = ARGV[11 + field], ARGV[11 + fields + field]
    if value ~= '0' then
      for _, key in ipairs(counts) do
        redis.call('HINCRBY', key, name, value)
      end
    end
  end
end

local place = 12 + 2 * fields
for _ = 1, seen do
  local id, expires_at = ARGV[place], tonumber(ARGV[place + 1])
  add_to_index(by_end, by_short_id, prefix, one_server, id, expires_at)
  for _, key in ipairs(active) do
    redis.call('PFADD', key, id)
  end
  place = place + 2
end
for deleted = place, #ARGV do
  redis.call('ZREM', by_end, ARGV[deleted])
  redis.call('ZREM', by_short_id, ARGV[deleted])
end
for number, age in ipairs(ages) do
  redis.call('EXPIRE', KEYS[2 + number], age)
end
return 1
