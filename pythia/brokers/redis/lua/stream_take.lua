-- Takes over entries: first what was given back, then what was not renewed for the length of our lease.
-- KEYS: the stream. ARGV: group, consumer, nobody's name, lease ms, how many at the most.
-- Answers {{id, count, fields} ...} and the ids of entries that somebody deleted from the stream before they were settled.
local group, room = ARGV[1], tonumber(ARGV[5])
local taken, vanished = {}, {}

local function take(found)
  for _, pending in ipairs(found) do
    local entry = redis.call('XCLAIM', KEYS[1], group, ARGV[2], 0, pending[1])[1]
    if entry and entry[2] then
      taken[#taken + 1] = {entry[1], pending[4] + 1, entry[2]}
    else
      redis.call('XACK', KEYS[1], group, pending[1])
      vanished[#vanished + 1] = pending[1]
    end
  end
end

take(redis.call('XPENDING', KEYS[1], group, '-', '+', room, ARGV[3]))
if #taken < room then
  take(redis.call('XPENDING', KEYS[1], group, 'IDLE', ARGV[4], '-', '+', room - #taken))
end
return {taken, vanished}
