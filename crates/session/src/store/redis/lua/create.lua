-- Stores a record if there is none. Returns 1 if the record is stored, also when the command was sent twice, else 0.
local key = KEYS[1]
local record, expires_at = ARGV[1], ARGV[2]

if redis.call('SET', key, record, 'NX', 'EXAT', expires_at) or redis.call('GET', key) == record then
  return 1
end
return 0
