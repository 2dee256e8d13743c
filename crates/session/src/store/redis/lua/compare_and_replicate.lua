-- Does what compare_and_swap.lua does where replicas are waited for. What is stored instead may be an earlier try
-- of this very save that no replica has yet. Writing it once more makes the wait that follows cover it.
local key = KEYS[1]
local old, new, expires_at = ARGV[1], ARGV[2], ARGV[3]

local stored = redis.call('GET', key)
if stored == old then
  redis.call('SET', key, new, 'EXAT', expires_at)
  redis.call('PUBLISH', key, '')
  return 1
end
if stored then
  redis.call('SET', key, stored, 'KEEPTTL')
end
return stored
