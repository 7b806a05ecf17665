-- ARGV: user, id, how long the deletion is remembered (0: not at all).
-- Also deletes what cannot be read: it is the owner's way out. A turn that runs is told at its end. Answers whether there
-- was one, and the time: sessions made until then are deleted.
local found = redis.call('EXISTS', HEADER)
local created = redis.pcall('HGET', HEADER, 'created')
local at = math.max(now(), type(created) == 'string' and tonumber(created) or 0)
redis.call('UNLINK', HEADER, MESSAGES)
if tonumber(ARGV[3]) > 0 then redis.call('SET', DELETED, text(at), 'PX', ARGV[3]) end
local t = open_turns()
if not t then
  redis.call('UNLINK', TURNS, QUEUE)
elseif t.holder then
  redis.call('HSET', TURNS, 'deleted', '1')
end
return {found, text(at)}
