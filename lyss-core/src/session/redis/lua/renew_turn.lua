-- ARGV: user, id, request, instance, lease.
local t, why = open_turns()
if not t then return {'corrupt', why} end
if not t.holder and t.length == 0 then return {'ok', 0} end
local at, lease, held = now(), tonumber(ARGV[5]), is_held_by(t, ARGV[3])
redis.call('HSET', TURNS, 'seen ' .. ARGV[4], text(at))
if held then redis.call('HSET', TURNS, 'until', text(at + lease)) end
keep(at, lease)
return {'ok', held and 1 or 0}
