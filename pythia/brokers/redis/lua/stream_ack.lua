-- Takes entries that are ours out of the group, and out of the stream.
-- KEYS: the stream. ARGV: group, deletes, then of each entry: id, consumer, count. Answers 1 or 0 (not ours) for each.
local answers, ours = {}, {}
for at = 3, #ARGV, 3 do
  local held = is_ours(ARGV[1], ARGV[at], ARGV[at + 1], ARGV[at + 2])
  answers[#answers + 1] = held and 1 or 0
  if held then ours[#ours + 1] = ARGV[at] end
end
if #ours > 0 then
  redis.call('XACK', KEYS[1], ARGV[1], unpack(ours))
  if deletes(ARGV[2]) then redis.call('XDEL', KEYS[1], unpack(ours)) end
end
return answers
