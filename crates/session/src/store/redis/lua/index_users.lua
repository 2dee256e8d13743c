-- Adds sign-ins to the index of users. ARGV: each sign-in, and the time of its next check.
local by_user, by_check = KEYS[1], KEYS[2]

for place = 1, #ARGV, 2 do
  redis.call('ZADD', by_user, 0, ARGV[place])
  redis.call('ZADD', by_check, ARGV[place + 1], ARGV[place])
end
return 1
