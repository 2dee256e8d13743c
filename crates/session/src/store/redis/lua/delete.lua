-- Deletes a record, and tells the servers that follow it. Returns how many it deleted.
local key = KEYS[1]

redis.call('PUBLISH', key, '')
return redis.call('DEL', key)
