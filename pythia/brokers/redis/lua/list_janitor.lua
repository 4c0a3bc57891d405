-- Gives back what dead consumers held. One that is taken for dead keeps its name here, below zero, for a day: a read of its that
-- was under way may still move a message into its list, and that is found the next time.
-- KEYS: the consumers, the queue. ARGV: how the names of their lists begin. Answers how many messages went back, or the error.
local now, count = now_ms(), 0
local function bury(consumer)
  local answer = give_all_back(ARGV[1] .. consumer, KEYS[2])
  if type(answer) == 'string' then return answer end
  count = count + answer
end
for _, consumer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, string.format('%.0f', now))) do
  local refused = bury(consumer)
  if refused then return refused end
  expires_at(KEYS[1], consumer, -now)
end
for _, consumer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(0')) do
  local refused = bury(consumer)
  if refused then return refused end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], string.format('%.0f', -(now - 86400000)), '(0')
return count
