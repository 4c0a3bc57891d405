-- Registers a consumer. KEYS: the consumers, by when they expire. ARGV: the consumer, its lease in ms.
expires_at(KEYS[1], ARGV[1], now_ms() + tonumber(ARGV[2]))
return 1
