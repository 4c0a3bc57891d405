-- Brings due messages back, a hundred at a time: written first, removed last.
-- KEYS: the delayed set, the queue. ARGV: 'stream' | 'list'. A member: 16 random bytes, then the fields of an entry, each with
-- its length in four bytes before it; or the payload.
-- Answers how many it moved, and in how many ms the next is due (-1: there is none).
local now = now_ms()

local function fields_of(member)
  local fields, at = {}, 17
  while at <= #member do
    fields[#fields + 1], at = struct.unpack('>I4c0', member, at)
  end
  assert(#fields > 0 and #fields % 2 == 0)
  return fields
end

local function bring_back(member)
  if ARGV[1] == 'list' then
    return redis.call('LPUSH', KEYS[2], #member > 16 and string.sub(member, 17) or member)
  end
  local sound, fields = pcall(fields_of, member)
  return redis.call('XADD', KEYS[2], '*', unpack(sound and fields or {'body', member})) -- a stranger's member is kept, too
end

local moved = 0
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do
  bring_back(member)
  redis.call('ZREM', KEYS[1], member)
  moved = moved + 1
end
local next = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {moved, next and math.max(0, tonumber(next) - now) or -1}
