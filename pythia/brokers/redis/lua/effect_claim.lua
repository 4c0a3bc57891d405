-- Claims an effect. KEYS: the effect. ARGV: owner, ms. Answers 'ours', 'busy' or 'done'. A value: 'd' or 'c', and the owner.
local found = redis.call('GET', KEYS[1])
if found and string.sub(found, 1, 1) == 'd' then return 'done' end
if found and string.sub(found, 2) ~= ARGV[1] then return 'busy' end
redis.call('SET', KEYS[1], 'c' .. ARGV[1], 'PX', ARGV[2])
return 'ours'
