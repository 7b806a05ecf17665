-- Says how the epoch stands, and begins one if there is none. KEYS[2]: the instances that have yet to tell what they
-- have reserved, a hash from instance to when it said so. KEYS[3]: the open reservations. ARGV: the instance, the epoch
-- it has told in, the id of an epoch to begin, the server's run id.
-- An epoch belongs to a server: another one (a restart, a replica) may have lost the last moments.
local id, run = unpack(redis.call('HMGET', epoch, 'id', 'run'))
if not id or run ~= ARGV[4] then
  redis.call('DEL', epoch, KEYS[2], KEYS[3])
  redis.call('HSET', epoch, 'id', ARGV[3], 'run', ARGV[4], 'state', 'counting', 'since', now())
  id = ARGV[3]
end
if state() == 'counting' and id ~= ARGV[2] then
  redis.call('HSET', KEYS[2], ARGV[1], now())
end
return {state(), id}
