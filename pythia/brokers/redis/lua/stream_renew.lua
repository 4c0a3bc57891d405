-- Renews the leases of entries that are ours, and shows that the consumer lives. A bare XCLAIM would steal what is another's.
-- KEYS: the stream. ARGV: group, consumer, then of each entry: id, count.
-- Answers for each 1, 0 (not ours), or 2 (ours, and somebody deleted it from the stream).
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, '0-1', 'JUSTID')
local has, answers = ours_among(ARGV[1], ARGV[2], 3, 2), {}
for at = 3, #ARGV, 2 do
  local id = ARGV[at]
  if has(id, ARGV[at + 1]) then
    local kept = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'JUSTID')
    answers[#answers + 1] = kept[1] and 1 or 2
  else
    answers[#answers + 1] = 0
  end
end
return answers
