-- Gives entries that are ours back to everybody: they wait with a consumer that nobody is, idle for longer than any lease, and
-- their count of hand-outs stays.
-- KEYS: the stream. ARGV: group, nobody's name, idle ms, then of each entry: id, consumer, count. Answers 1 or 0 for each.
local answers = {}
for at = 4, #ARGV, 3 do
  local held = is_ours(ARGV[1], ARGV[at], ARGV[at + 1], ARGV[at + 2])
  answers[#answers + 1] = held and 1 or 0
  if held then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[at], 'IDLE', ARGV[3], 'JUSTID') end
end
return answers
