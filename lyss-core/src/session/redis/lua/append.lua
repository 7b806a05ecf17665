-- ARGV: user, id, ttl, expected version, request, digest of the history, tokens of all messages, whether there is a
-- system prompt ('1'), the prompt, then tokens and JSON of each message. All of it or nothing: whatever can fail is
-- checked before the first write. Nothing here reads the history. Answers the version, the time, whether the life was
-- renewed, creation, messages and tokens of the session, and the request of the turn before.
local ttl, expected, request = tonumber(ARGV[3]), ARGV[4], ARGV[5]
local t, reason = open_turns()
if not t then return {'corrupt', reason} end
local mine = is_held_by(t, request)
if (mine and t.deleted) or t.gone == request then
  if mine then leave(t) end
  -- Remembered, in case this answer is lost and the turn is sent again.
  redis.call('HSET', TURNS, 'gone', request)
  keep(now(), 0)
  return {'deleted'}
end
local s, why = open(ARGV[1], ARGV[2], 'before')
if s == false then return {'corrupt', why} end
local at
if s == nil then
  if expected ~= '0' then return {'conflict'} end
  at = now()
  s = create(ARGV[1], ARGV[2], at)
elseif s.request == request then
  if mine then leave(t) end
  return {'ok', s.version, s.used, renew(ttl), s.created, s.messages, s.tokens, s.before}
elseif s.version ~= expected then
  return {'conflict'}
else
  at = now()
end
local turn = text(tonumber(s.version) + 1)
local seq = tonumber(s.messages)
local used = text(math.max(at, tonumber(s.used)))
for arg = 10, #ARGV, 2 do
  seq = seq + 1
  redis.call('RPUSH', MESSAGES, text(seq) .. ' ' .. turn .. ' ' .. ARGV[arg] .. ' ' .. ARGV[arg + 1])
end
redis.call('HSET', HEADER, 'version', turn, 'messages', text(seq), 'used', used, 'before', s.request or '',
  'request', request, 'history', ARGV[6])
local tokens = redis.call('HINCRBY', HEADER, 'tokens', ARGV[7])
if ARGV[8] == '1' then redis.call('HSET', HEADER, 'system', ARGV[9]) end
expire(at, ttl)
if mine then leave(t) end
return {'ok', turn, used, 1, s.created, text(seq), text(tokens), s.request}
