-- Takes payloads out of a consumer's list. KEYS: the list. ARGV: the payloads. Answers 1 or 0 (not there) for each.
local answers = {}
for at, payload in ipairs(ARGV) do answers[at] = redis.call('LREM', KEYS[1], -1, payload) end
return answers
