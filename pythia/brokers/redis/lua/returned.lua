-- For other scripts: gives payloads back to the list from which they came, marked as begun.
-- An envelope is the magic, then names and values by turns, each with its length in four bytes before it.
local MAGIC = '\0pythia\1'
local RETURNED = struct.pack('>I4', 15) .. 'pythia-returned' .. struct.pack('>I4', 1) .. '1'

local function is_envelope(payload)
  if string.sub(payload, 1, #MAGIC) ~= MAGIC then return false end
  local at, words = #MAGIC + 1, 0
  while at <= #payload do
    if at + 3 > #payload then return false end
    at = at + 4 + struct.unpack('>I4', payload, at)
    words = words + 1
  end
  return at == #payload + 1 and words % 2 == 0
end

local function marked(payload)
  if not is_envelope(payload) then -- a stranger's: the body of an envelope
    return MAGIC .. struct.pack('>I4', 4) .. 'body' .. struct.pack('>I4', #payload) .. payload .. RETURNED
  end
  if string.sub(payload, -#RETURNED) == RETURNED then return payload end
  return payload .. RETURNED
end

-- Taken out first: that is never refused for want of memory, and after it the script is not, either.
local function give_back(processing, queue, payload)
  if redis.call('LREM', processing, -1, payload) == 0 then return 0 end
  local answer = redis.pcall('RPUSH', queue, marked(payload))
  if type(answer) == 'table' and answer.err then
    redis.call('RPUSH', processing, payload)
    return answer.err
  end
  return 1
end

-- Everything in a processing list, the youngest first, so that the oldest is the next to be taken. Answers how many.
local function give_all_back(processing, queue)
  local count = 0
  for _, payload in ipairs(redis.call('LRANGE', processing, 0, -1)) do
    local answer = give_back(processing, queue, payload)
    if type(answer) == 'string' then return answer end
    count = count + 1
  end
  return count
end
