-- ARGV: owner, lease, the state from now on (empty: as it is).
local entry = redis.call('HMGET', ENTRY, 'owner', 'state')
if entry[1] ~= OWNER or entry[2] == 'done' then return 0 end
redis.call('HSET', ENTRY, 'lease', text(now() + tonumber(ARGV[2])))
if ARGV[3] ~= '' then redis.call('HSET', ENTRY, 'state', ARGV[3]) end
return 1
