-- ARGV: user, id, ttl, metadata ('' for none).
local ttl = tonumber(ARGV[3])
local s, why = open(ARGV[1], ARGV[2], 'metadata')
if s == false then return {'corrupt', why} end
if s then return header(s, renew(ttl)) end
local at = now()
s = create(ARGV[1], ARGV[2], at)
if ARGV[4] ~= '' then
  redis.call('HSET', HEADER, 'metadata', ARGV[4])
  s.metadata = ARGV[4]
end
expire(at, ttl)
return header(s, 1)
