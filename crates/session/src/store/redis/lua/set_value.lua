-- Stores a value until a point in time.
local key = KEYS[1]
local value, expires_at = ARGV[1], ARGV[2]

redis.call('SET', key, value, 'EXAT', expires_at)
return 1
