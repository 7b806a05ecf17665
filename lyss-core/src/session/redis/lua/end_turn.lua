-- ARGV: user, id, request, instance.
local t, why = open_turns()
if not t then return {'corrupt', why} end
if t.length > 0 then t.length = t.length - redis.call('ZREM', QUEUE, ARGV[3] .. ' ' .. ARGV[4]) end
if is_held_by(t, ARGV[3]) then
  leave(t)
elseif not t.holder and not t.gone and t.length == 0 then
  redis.call('DEL', TURNS)
end
return {'ok'}
