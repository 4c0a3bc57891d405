-- Takes entries that are ours out of the group, and out of the stream.
-- KEYS: the stream. ARGV: group, deletes, consumer, then "1" and the ids of entries that were handed out once, or "0" and of
-- each entry: id, count. Answers 1 or 0 (not ours) for each.
local group, once = ARGV[1], ARGV[4] == '1'
local step = once and 1 or 2
local has = ours_among(group, ARGV[3], 5, step)
local answers, ours = {}, {}
for at = 5, #ARGV, step do
  local held = has(ARGV[at], once and 1 or ARGV[at + 1])
  answers[#answers + 1] = held and 1 or 0
  if held then ours[#ours + 1] = ARGV[at] end
end
if #ours > 0 then
  redis.call('XACK', KEYS[1], group, unpack(ours))
  if deletes(ARGV[2]) then redis.call('XDEL', KEYS[1], unpack(ours)) end
end
return answers
