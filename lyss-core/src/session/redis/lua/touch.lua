-- KEYS: a user's listing (sorted set, id by last activity). ARGV: id, last activity, life of the listing.
-- Two turns may come here in the other order: the later activity stays.
local seen = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not seen or tonumber(seen) < tonumber(ARGV[2]) then redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
