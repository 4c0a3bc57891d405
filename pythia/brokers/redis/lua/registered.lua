-- For other scripts: sets until when a consumer is taken for alive. After a write that is never refused for want of memory the
-- script's others are not, either: a full server must not make the living look dead.
local function expires_at(consumers, consumer, at)
  redis.call('ZREM', consumers, consumer)
  redis.call('ZADD', consumers, string.format('%.0f', at), consumer)
end
