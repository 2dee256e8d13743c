-- Precedes scripts that add sessions to the index: the sessions by expiry, and by short id.
--
-- Batches may arrive in any order, and after a session's deletion. The record itself shows whether it exists and
-- when it expires. In a Cluster (one_server is not '1') the record is out of reach here: then the later end counts, and
-- a session that another server deleted in the same second may stay in the index until an operator opens its page.
local now = tonumber(redis.call('TIME')[1])

local function add_to_index(by_end, by_short_id, prefix, one_server, id, expires_at)
  if one_server == '1' then
    local seconds_left = redis.call('TTL', prefix .. id)
    if seconds_left <= 0 then
      return
    end
    expires_at = now + seconds_left
  else
    expires_at = math.max(expires_at, tonumber(redis.call('ZSCORE', by_end, id) or 0))
  end
  redis.call('ZADD', by_end, expires_at, id)
  redis.call('ZADD', by_short_id, 0, id)
end

