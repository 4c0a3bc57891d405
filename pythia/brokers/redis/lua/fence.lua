-- For other scripts: whether the entry is pending, with this consumer, at this hand-out, in the group of KEYS[1].
local function is_ours(group, id, consumer, count)
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  return pending and pending[2] == consumer and pending[4] == tonumber(count)
end

-- Whether an acked entry is to be deleted: 'auto' says only while no other group reads the stream.
local function deletes(mode)
  return mode == 'always' or (mode == 'auto' and #redis.call('XINFO', 'GROUPS', KEYS[1]) == 1)
end
