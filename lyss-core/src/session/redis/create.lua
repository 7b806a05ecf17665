-- ARGV: user, id, ttl, metadata ('' for none).
local ttl = tonumber(ARGV[3])
local fields, why = open(ARGV[1], ARGV[2])
if fields == false then return {'corrupt', why} end
local renewed
if fields then
  renewed = renew(ttl)
else
  local at = now()
  create(ARGV[1], ARGV[2], at)
  if ARGV[4] ~= '' then redis.call('HSET', HEADER, 'metadata', ARGV[4]) end
  expire(at, ttl)
  fields = {'0', '0', '0', text(at), text(at)}
  renewed = 1
end
return {'ok', fields[1], fields[2], fields[3], fields[4], fields[5], renewed, redis.call('HGET', HEADER, 'metadata')}
