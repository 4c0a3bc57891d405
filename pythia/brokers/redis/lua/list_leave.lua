-- Gives back everything that a consumer holds, seen or not, and forgets it.
-- KEYS: the consumers, the queue, the consumer's list. ARGV: the consumer. Answers how many went back, or the error.
local answer = give_all_back(KEYS[3], KEYS[2])
if type(answer) == 'number' then redis.call('ZREM', KEYS[1], ARGV[1]) end
return answer
