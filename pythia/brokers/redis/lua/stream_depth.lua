-- How much a stream holds for one group. Writes nothing.
-- KEYS: the stream, its delayed set, its dead letters. ARGV: group, nobody's name, ms after which a consumer counts as gone.
-- Answers {waiting (or -1: it cannot be told), released, pending, later, due, dead, consumers, age of the oldest ready in ms (or -1)}.
local function facts_of(row)
  local facts = {}
  for at = 1, #row, 2 do facts[row[at]] = row[at + 1] end
  return facts
end

local now = now_ms()
local instant = string.format('%.0f', now)
local due = redis.call('ZCOUNT', KEYS[2], '-inf', instant)
local later = redis.call('ZCARD', KEYS[2]) - due
local dead = redis.call('XLEN', KEYS[3])
local waiting, released, pending, consumers = redis.call('XLEN', KEYS[1]), 0, 0, 0
local groups = redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[1]) or {}
local after, oldest = '-', nil

for _, row in ipairs(groups) do
  local group = facts_of(row)
  if group.name == ARGV[1] then
    pending, after = group.pending, '(' .. group['last-delivered-id']
    if type(group.lag) == 'number' then
      waiting = math.min(group.lag, waiting) -- 7.0 forgets what was read between a rewrite of its AOF and a restart
    elseif #groups == 1 then
      waiting = waiting - pending
    else
      waiting = -1
    end
    for _, one in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
      local consumer = facts_of(one)
      if consumer.name == ARGV[2] then
        released = consumer.pending
      elseif consumer.idle < tonumber(ARGV[3]) then
        consumers = consumers + 1
      end
    end
    if released > 0 then
      oldest = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])[1][1]
    end
  end
end

if not oldest and waiting ~= 0 then
  local first = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 1)[1]
  oldest = first and first[1]
end
local age = oldest and math.max(0, now - tonumber(string.match(oldest, '^%d+'))) or -1
if not oldest and due > 0 then
  age = math.max(0, now - tonumber(redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]))
end
return {waiting, released, pending, later, due, dead, consumers, age}
