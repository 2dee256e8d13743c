-- Does what compare_and_swap.lua does, for a save that waits for replicas. The stored record may be an earlier try
-- of the same save that no replica has yet. Writing it again makes the WAIT that follows cover it.
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
