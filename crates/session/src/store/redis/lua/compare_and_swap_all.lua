-- Does what compare_and_swap.lua does, for each key with its three arguments. Returns a result for each.
local results = {}
for number, key in ipairs(KEYS) do
  local old, new, expires_at = ARGV[3 * number - 2], ARGV[3 * number - 1], ARGV[3 * number]
  local stored = redis.pcall('GET', key)
  -- A value of another type is an error. It must not fail the other saves.
  if type(stored) == 'table' then
    stored = false
  end
  if stored == old then
    redis.call('SET', key, new, 'EXAT', expires_at)
    redis.call('PUBLISH', key, '')
    stored = 1
  end
  results[number] = stored
end
return results
