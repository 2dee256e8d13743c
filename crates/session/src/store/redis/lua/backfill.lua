-- Adds sessions to the index. ARGV from 3 on: each session's id and expiry.
local by_end, by_short_id = KEYS[1], KEYS[2]
local prefix, one_server = ARGV[1], ARGV[2]

for place = 3, #ARGV, 2 do
  add_to_index(by_end, by_short_id, prefix, one_server, ARGV[place], tonumber(ARGV[place + 1]))
end
return 1
