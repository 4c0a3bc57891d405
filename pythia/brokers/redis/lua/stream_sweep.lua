-- Forgets consumers that hold nothing and were not heard of for a long time.
-- KEYS: the stream. ARGV: group, idle ms. Answers how many.
local swept = 0
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local facts = {}
  for at = 1, #row, 2 do facts[row[at]] = row[at + 1] end
  if facts.pending == 0 and facts.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts.name)
    swept = swept + 1
  end
end
return swept
