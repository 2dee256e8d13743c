-- Replaces a record if it is still the old one, and notifies its subscribers.
-- Returns 1, or what is stored instead.
local key = KEYS[1]
local old, new, expires_at = ARGV[1], ARGV[2], ARGV[3]

local stored = redis.call('GET', key)
if stored ~= old then
  return stored
end
redis.call('SET', key, new, 'EXAT', expires_at)
redis.call('PUBLISH', key, '')
return 1
