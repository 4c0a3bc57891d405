-- How much a list holds. Writes nothing.
-- KEYS: the queue, its delayed set, its dead letters, its consumers. ARGV: how the names of their lists begin.
-- Answers {ready, in flight, later, due, dead, consumers}.
local now = string.format('%.0f', now_ms())
local due = redis.call('ZCOUNT', KEYS[2], '-inf', now)
local held = 0
for _, consumer in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  held = held + redis.call('LLEN', ARGV[1] .. consumer)
end
return {
  redis.call('LLEN', KEYS[1]), held, redis.call('ZCARD', KEYS[2]) - due, due, redis.call('XLEN', KEYS[3]),
  redis.call('ZCOUNT', KEYS[4], '(' .. now, '+inf'),
}
