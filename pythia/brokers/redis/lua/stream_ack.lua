-- Takes entries that are ours out of the group, and out of the stream.
-- KEYS: the stream. ARGV: group, deletes, consumer, then "1" and the ids of entries that were handed out once, or "0" and of
-- each entry: id, count. Answers 1 or 0 (not ours) for each.
local group, consumer, step = ARGV[1], ARGV[3], ARGV[4] == '1' and 1 or 2
local wanted = (#ARGV - 4) / step

-- One look at what the consumer has between the first and the last of many: asking for each costs several times as much. The
-- ids are compared as text, so something may lie outside; that is asked for by itself.
local found = {}
if wanted > 3 then
  local low, high = ARGV[5], ARGV[5]
  for at = 5 + step, #ARGV, step do
    local id = ARGV[at]
    if id < low then low = id elseif id > high then high = id end
  end
  local most = 4 * wanted
  local rows = redis.call('XPENDING', KEYS[1], group, low:match('^%d+'), high:match('^%d+'), most, consumer)
  for _, row in ipairs(rows) do found[row[1]] = row[4] end
end

local answers, ours = {}, {}
for at = 5, #ARGV, step do
  local id, count = ARGV[at], step == 1 and 1 or tonumber(ARGV[at + 1])
  local held
  if found[id] then held = found[id] == count else held = is_ours(group, id, consumer, count) end
  answers[#answers + 1] = held and 1 or 0
  if held then ours[#ours + 1] = id end
end
if #ours > 0 then
  redis.call('XACK', KEYS[1], group, unpack(ours))
  if deletes(ARGV[2]) then redis.call('XDEL', KEYS[1], unpack(ours)) end
end
return answers
