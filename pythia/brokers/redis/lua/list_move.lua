-- Writes targets (a copy, a dead letter, outputs), then takes the payload out of the consumer's list, or gives it back: all or
-- nothing. KEYS: the list, the queue, then what the targets name. ARGV: 'ack' | 'release', the payload, how many targets, the
-- targets. Answers 1, 0 (not there), or the error.
if not redis.call('LPOS', KEYS[1], ARGV[2]) then return 0 end
local refused = write(4, tonumber(ARGV[3]))
if refused then return refused end
if ARGV[1] == 'release' then return give_back(KEYS[1], KEYS[2], ARGV[2]) end
return redis.call('LREM', KEYS[1], -1, ARGV[2])
