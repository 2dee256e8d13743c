-- Stores a key and deletes it, which shows that Redis takes writes.
local key = KEYS[1]

redis.call('SET', key, '', 'EX', 60)
redis.call('DEL', key)
return 1
