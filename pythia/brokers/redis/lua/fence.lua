-- For other scripts: whether the entry is pending, with this consumer, at this hand-out, in the group of KEYS[1].
local function is_ours(group, id, consumer, count)
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  return pending and pending[2] == consumer and pending[4] == tonumber(count)
end

-- The same for many entries of one consumer, whose ids stand in ARGV from `first` on, each `step` words apart: a function of id
-- and count. It looks once at what the consumer has between the first and the last of them; to ask for each costs several times
-- as much. Ids are compared as text, so one may lie outside; that is asked for by itself.
local function ours_among(group, consumer, first, step)
  local wanted, found = math.floor((#ARGV - first) / step) + 1, {}
  if wanted > 3 then
    local low, high = ARGV[first], ARGV[first]
    for at = first + step, #ARGV, step do
      local id = ARGV[at]
      if id < low then low = id elseif id > high then high = id end
    end
    local from, to = low:match('^%d+'), high:match('^%d+')
    for _, row in ipairs(redis.call('XPENDING', KEYS[1], group, from, to, 4 * wanted, consumer)) do
      found[row[1]] = row[4]
    end
  end
  return function(id, count)
    if found[id] then return found[id] == tonumber(count) end
    return is_ours(group, id, consumer, count)
  end
end

-- Whether an acked entry is to be deleted: 'auto' says only while no other group reads the stream.
local function deletes(mode)
  return mode == 'always' or (mode == 'auto' and #redis.call('XINFO', 'GROUPS', KEYS[1]) == 1)
end
