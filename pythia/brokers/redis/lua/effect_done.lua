-- Remembers that an effect was done. KEYS: the effect. ARGV: owner, ms. Answers 1, or 0 when the claim is another's by now.
local found = redis.call('GET', KEYS[1])
if found and string.sub(found, 2) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], 'd' .. ARGV[1], 'PX', ARGV[2])
return 1
