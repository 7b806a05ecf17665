-- ARGV: owner, fingerprint, life, reply. An entry that is gone is made anew.
local owner = redis.call('HGET', ENTRY, 'owner')
if owner and owner ~= OWNER then return 0 end
local expires = text(now() + tonumber(ARGV[3]))
redis.call('SET', REPLY, ARGV[4])
redis.call('HSET', ENTRY, 'owner', OWNER, 'fingerprint', ARGV[2], 'state', 'done', 'length', #ARGV[4])
redis.call('PEXPIREAT', REPLY, expires)
redis.call('PEXPIREAT', ENTRY, expires)
return 1
