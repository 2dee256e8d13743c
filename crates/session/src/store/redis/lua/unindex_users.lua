-- Removes sign-ins from the index of users. ARGV: the sign-ins.
local by_user, by_check = KEYS[1], KEYS[2]

for _, sign_in in ipairs(ARGV) do
  redis.call('ZREM', by_user, sign_in)
  redis.call('ZREM', by_check, sign_in)
end
return 1
