-- Gives back what a consumer that is gone still holds, a thousand at a time, and forgets it once it holds nothing: deleting it
-- before would make its entries unclaimable.
-- KEYS: the stream. ARGV: group, nobody's name, idle ms, the consumer. Answers how many it gave back.
local found = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[4])
for _, pending in ipairs(found) do
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, pending[1], 'IDLE', ARGV[3], 'JUSTID')
end
if #found < 1000 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[4]) end
return #found
