-- For other scripts: writes `n` targets, described in ARGV from `at` on, all or none.
-- A target: the number of its key, 'stream' | 'list' | 'delayed', how many words follow, the words: the fields of an entry; a
-- payload; a delay in milliseconds and a member. Answers nil, or the error after which everything was taken back: scripts are
-- not rolled back.

local function undo(done)
  for _, one in ipairs(done) do redis.call(unpack(one)) end
end

local function put(kind, key, first, last)
  if kind == 'stream' then
    local id = redis.pcall('XADD', key, '*', unpack(ARGV, first, last))
    return id, {'XDEL', key, id}
  elseif kind == 'list' then
    return redis.pcall('LPUSH', key, ARGV[first]), {'LREM', key, 1, ARGV[first]}
  end
  local due = now_ms() + tonumber(ARGV[first])
  return redis.pcall('ZADD', key, string.format('%.0f', due), ARGV[first + 1]), {'ZREM', key, ARGV[first + 1]}
end

local function write(at, n)
  local done = {}
  for _ = 1, n do
    local last = at + 2 + tonumber(ARGV[at + 2])
    local answer, back = put(ARGV[at + 1], KEYS[tonumber(ARGV[at])], at + 3, last)
    if type(answer) == 'table' and answer.err then
      undo(done)
      return answer.err
    end
    done[#done + 1] = back
    at = last + 1
  end
  return nil
end
