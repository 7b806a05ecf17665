-- ARGV: user, id, ttl, most messages and bytes to read, request, instance, lease, whether it is the first of its
-- instance ('1'), whether it waits ('1'), most that wait.
local t, why = open_turns()
if not t then return {'corrupt', why} end
local step = begin_turn(t, ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9] == '1', ARGV[10] == '1', tonumber(ARGV[11]))
if step ~= 'granted' then return {step} end
return read(ARGV[1], ARGV[2], tonumber(ARGV[3]), nil, tonumber(ARGV[4]), tonumber(ARGV[5]))
