-- Gives payloads back, the youngest first. KEYS: the consumer's list, the queue. ARGV: the payloads. Answers 1 or 0 for each, or
-- an error in its place.
local answers = {}
for at, payload in ipairs(ARGV) do answers[at] = give_back(KEYS[1], KEYS[2], payload) end
return answers
