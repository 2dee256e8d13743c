-- Deletes a record, and notifies its subscribers. Returns how many it deleted.
local key = KEYS[1]

redis.call('PUBLISH', key, '')
return redis.call('DEL', key)
