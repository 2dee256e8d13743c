-- Does what compare_and_swap.lua does, for each key with its three arguments. Returns a result for each.
local call, try = redis.call, redis.pcall
local results = {}
for number = 1, #KEYS do
  local key = KEYS[number]
  local stored = try('GET', key)
  -- A value of another type is an error. It must not fail the other saves.
  if type(stored) == 'table' then
    stored = false
  end
  if stored == ARGV[3 * number - 2] then
    call('SET', key, ARGV[3 * number - 1], 'EXAT', ARGV[3 * number])
    call('PUBLISH', key, '')
    stored = 1
  end
  results[number] = stored
end
return results
