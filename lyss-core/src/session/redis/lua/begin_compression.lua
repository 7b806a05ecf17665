-- ARGV: user, id, request, lease.
local s, why = open(ARGV[1], ARGV[2])
if s == false then return {'corrupt', why} end
if s == nil or is_compressing(s) then return {'ok', 0} end
redis.call('HSET', HEADER, 'compressing', ARGV[3], 'compressing_until', text(now() + tonumber(ARGV[4])))
return {'ok', 1}
