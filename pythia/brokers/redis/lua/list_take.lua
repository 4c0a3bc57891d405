-- Takes up to so many payloads, the oldest first, into a consumer's list. Not LMOVE, which is refused for want of memory.
-- KEYS: the consumers, the queue, the consumer's list. ARGV: the consumer, how many.
-- Answers the payloads; false when the consumer's registration is gone.
local expires = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not expires or tonumber(expires) < 0 then return false end
local taken = {}
for _ = 1, tonumber(ARGV[2]) do
  local payload = redis.call('RPOP', KEYS[2])
  if not payload then break end
  redis.call('LPUSH', KEYS[3], payload)
  taken[#taken + 1] = payload
end
return taken
