-- ARGV: user, id, request, then of the new prefix: version, last message, tokens of what it covers, whether there is a
-- summary ('1'), the summary, its tokens.
local s, why = open(ARGV[1], ARGV[2])
if s == false then return {'corrupt', why} end
if s == nil then return {'ok', 0} end
if s.compressing == ARGV[3] then redis.call('HDEL', HEADER, 'compressing', 'compressing_until') end
local upto = tonumber(ARGV[5])
if tonumber(ARGV[4]) ~= tonumber(s.prefix) + 1 or upto < tonumber(s.upto) or upto > tonumber(s.messages) then
  return {'ok', 0}
end
redis.call('HSET', HEADER, 'prefix', ARGV[4], 'upto', ARGV[5], 'covered', ARGV[6], 'summary_tokens', ARGV[9])
if ARGV[7] == '1' then
  redis.call('HSET', HEADER, 'summary', ARGV[8])
else
  redis.call('HDEL', HEADER, 'summary')
end
return {'ok', 1, s.created}
