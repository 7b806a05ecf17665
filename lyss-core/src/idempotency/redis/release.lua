-- ARGV: owner. What is done stays.
local entry = redis.call('HMGET', ENTRY, 'owner', 'state')
if entry[1] ~= OWNER or entry[2] == 'done' then return 0 end
return redis.call('DEL', ENTRY, REPLY)
