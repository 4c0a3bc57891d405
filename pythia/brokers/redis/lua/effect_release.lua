-- Gives a claim back, if it is ours and nothing was done. KEYS: the effect. ARGV: owner.
if redis.call('GET', KEYS[1]) == 'c' .. ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
