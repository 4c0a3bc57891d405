-- Moves a dead letter: written first, deleted last. KEYS: the dead letters, then what the targets name.
-- ARGV: the entry's id, how many targets, the targets. Answers 1, 0 (it is gone), or the error.
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
local refused = write(3, tonumber(ARGV[2]))
if refused then return refused end
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
