-- ARGV: owner, fingerprint, lease, life, how much of a reply is given back at once.
local at = now()
local entry = redis.call('HMGET', ENTRY, 'owner', 'fingerprint', 'state', 'lease', 'length')
local free = not entry[1]
  or (entry[3] == 'claimed' and (tonumber(entry[4]) <= at or entry[1] == OWNER))
if free then
  redis.call('DEL', ENTRY, REPLY)
  redis.call('HSET', ENTRY, 'owner', OWNER, 'fingerprint', ARGV[2], 'state', 'claimed',
    'lease', text(at + tonumber(ARGV[3])))
  redis.call('PEXPIREAT', ENTRY, text(at + tonumber(ARGV[4])))
  return {'granted'}
end
if entry[2] ~= ARGV[2] then return {'reused'} end
if entry[3] == 'done' then
  -- An evicting Redis may have dropped one of the two keys.
  if redis.call('STRLEN', REPLY) ~= tonumber(entry[5]) then return {'lost'} end
  return {'done', entry[1], tonumber(entry[5]), redis.call('GETRANGE', REPLY, 0, ARGV[5] - 1)}
end
if entry[3] == 'dispatched' and tonumber(entry[4]) <= at then return {'lost'} end
return {'running'}
