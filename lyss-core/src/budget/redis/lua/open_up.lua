-- Makes an epoch ready, once every instance that lives has told. KEYS[2]: those that have yet to. ARGV[2]: how old the
-- epoch must be, so that all have noticed; ARGV[3]: after how long an instance that would tell counts as dead; in
-- milliseconds.
local state = state()
if state ~= 'counting' then return {state} end
local time = now()
if time - tonumber(redis.call('HGET', epoch, 'since')) < tonumber(ARGV[2]) then return {'counting'} end
local waiting = redis.call('HGETALL', KEYS[2])
for at = 2, #waiting, 2 do
  if time - tonumber(waiting[at]) < tonumber(ARGV[3]) then return {'counting'} end
end
redis.call('DEL', KEYS[2])
redis.call('HSET', epoch, 'state', 'ready')
return {'ready'}
