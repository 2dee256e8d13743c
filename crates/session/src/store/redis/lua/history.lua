-- Returns a row for each key: the named counts of the first ones, the number of different sessions of the others.
-- ARGV from 2 on: the names of the counts.
local number_of_counts = tonumber(ARGV[1])
local names = { unpack(ARGV, 2) }

local rows = {}
for number, key in ipairs(KEYS) do
  if number <= number_of_counts then
    rows[number] = redis.call('HMGET', key, unpack(names))
  else
    rows[number] = redis.call('PFCOUNT', key)
  end
end
return rows
