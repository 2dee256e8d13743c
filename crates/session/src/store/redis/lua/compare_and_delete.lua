-- Deletes a record if it is still the old one, and notifies its subscribers. Returns how many it deleted.
local key = KEYS[1]
local old = ARGV[1]

if redis.call('GET', key) ~= old then
  return 0
end
redis.call('DEL', key)
redis.call('PUBLISH', key, '')
return 1
