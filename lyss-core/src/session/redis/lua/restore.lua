-- KEYS: those of a session, then the messages that were laid ready (list). ARGV: user, id, ttl, the version to replace ('':
-- restore only if there is none), then of the session: version, messages, tokens, created, used, prefix, last message and
-- tokens of what it covers, tokens of the summary, then pairs of further fields and values.
local s, why = open(ARGV[1], ARGV[2])
if s == false then return {'corrupt', why} end
local deleted = tonumber(redis.call('GET', DELETED) or '') or -1
local wanted
if ARGV[4] == '' then wanted = s == nil else wanted = s and s.version == ARGV[4] end
if not wanted or deleted >= tonumber(ARGV[8]) then
  redis.call('UNLINK', KEYS[6])
  return {'ok', 0}
end
local length = redis.call('LLEN', KEYS[6])
if length ~= tonumber(ARGV[6]) then return {'corrupt', 'messages were lost on their way back'} end
redis.call('UNLINK', HEADER, MESSAGES)
redis.call('HSET', HEADER, 'schema', SCHEMA, 'user', ARGV[1], 'id', ARGV[2], 'version', ARGV[5], 'messages', ARGV[6],
  'tokens', ARGV[7], 'created', ARGV[8], 'used', ARGV[9], 'prefix', ARGV[10], 'upto', ARGV[11], 'covered', ARGV[12],
  'summary_tokens', ARGV[13])
for at = 14, #ARGV, 2 do redis.call('HSET', HEADER, ARGV[at], ARGV[at + 1]) end
if length > 0 then
  redis.call('RENAME', KEYS[6], MESSAGES)
  redis.call('PERSIST', MESSAGES)
end
expire(now(), tonumber(ARGV[3]))
return {'ok', 1}
