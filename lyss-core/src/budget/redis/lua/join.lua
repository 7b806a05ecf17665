-- Says which epoch it is and how it stands; begins one if there is none. ARGV[1]: the epoch in which the instance has
-- told what it has reserved. KEYS[2]: the instances that have yet to, a hash from instance to when it said so. KEYS[3]:
-- the open reservations. ARGV[2]: the instance; ARGV[3]: the id of an epoch to begin; ARGV[4]: the server's run id.
-- An epoch belongs to a server: another one (a restart, a replica that took over) may have lost the last moments.
local id, run = unpack(redis.call('HMGET', epoch, 'id', 'run'))
if not id or run ~= ARGV[4] then
  id = ARGV[3]
  redis.call('DEL', epoch, KEYS[2], KEYS[3])
  redis.call('HSET', epoch, 'id', id, 'run', ARGV[4], 'state', 'counting', 'since', string.format('%.0f', now()))
end
local state = redis.call('HGET', epoch, 'state')
if state == 'counting' and id ~= ARGV[1] then
  redis.call('HSET', KEYS[2], ARGV[2], string.format('%.0f', now()))
end
return {state, id}
