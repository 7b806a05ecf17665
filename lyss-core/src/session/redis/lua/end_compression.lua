-- ARGV: user, id, request.
local s, why = open(ARGV[1], ARGV[2])
if s == false then return {'corrupt', why} end
if s and s.compressing == ARGV[3] then redis.call('HDEL', HEADER, 'compressing', 'compressing_until') end
return {'ok'}
