-- Deletes a value and returns it.
local key = KEYS[1]

local value = redis.call('GET', key)
redis.call('DEL', key)
return value
