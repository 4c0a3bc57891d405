-- Writes targets (a copy, a dead letter, outputs), then takes the entry out of the group, or gives it back: all or nothing.
-- KEYS: the stream, then what the targets name. ARGV: group, deletes (or 'release': give it back), id, consumer, count ('gone':
-- somebody deleted the entry, so nobody else can have it), nobody's name, idle ms, how many targets, the targets.
-- Answers 1, 0 (not ours), or the error.
local group, mode, id, count = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
if count ~= 'gone' and not is_ours(group, id, ARGV[4], count) then return 0 end
local refused = write(9, tonumber(ARGV[8]))
if refused then return refused end
if mode == 'release' then
  redis.call('XCLAIM', KEYS[1], group, ARGV[6], 0, id, 'IDLE', ARGV[7], 'JUSTID')
  return 1
end
redis.call('XACK', KEYS[1], group, id)
if deletes(mode) then redis.call('XDEL', KEYS[1], id) end
return 1
