-- Also deletes what cannot be read: it is the owner's way out. A turn that runs is told at its end.
local found = redis.call('EXISTS', HEADER)
redis.call('UNLINK', HEADER, MESSAGES)
local t = open_turns()
if not t then
  redis.call('UNLINK', TURNS, QUEUE)
elseif t.holder then
  redis.call('HSET', TURNS, 'deleted', '1')
end
return found
