-- Shows that a consumer lives. KEYS: the consumers. ARGV: the consumer, its lease in ms.
-- Answers 0 when its registration is gone: a janitor took it for dead, and gave back what it held.
local expires = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not expires or tonumber(expires) < 0 then return 0 end
expires_at(KEYS[1], ARGV[1], now_ms() + tonumber(ARGV[2]))
return 1
