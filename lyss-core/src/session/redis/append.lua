-- ARGV: user, id, ttl, expected version, request, tokens of all messages, whether there is a system prompt ('1'), the
-- prompt, then tokens and JSON of each message. All of it or nothing: whatever can fail is checked before the first
-- write. Nothing here reads the history.
local ttl, expected, request = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local fields, why = open(ARGV[1], ARGV[2])
if fields == false then return {'corrupt', why} end
local at = now()
if fields == nil then
  if expected ~= '0' then return {'conflict'} end
  create(ARGV[1], ARGV[2], at)
  fields = {'0', '0', '0', text(at), text(at), false}
elseif fields[6] == request then
  local renewed = renew(ttl)
  return {'ok', fields[1], fields[5], renewed}
elseif fields[1] ~= expected then
  return {'conflict'}
end
local turn = text(tonumber(fields[1]) + 1)
local seq = tonumber(fields[2])
local used = text(math.max(at, tonumber(fields[5])))
for arg = 9, #ARGV, 2 do
  seq = seq + 1
  redis.call('RPUSH', MESSAGES, text(seq) .. ' ' .. turn .. ' ' .. ARGV[arg] .. ' ' .. ARGV[arg + 1])
end
redis.call('HSET', HEADER, 'version', turn, 'messages', text(seq), 'used', used, 'request', request)
redis.call('HINCRBY', HEADER, 'tokens', ARGV[6])
if ARGV[7] == '1' then redis.call('HSET', HEADER, 'system', ARGV[8]) end
expire(at, ttl)
return {'ok', turn, used, 1}
