-- Ends the counting, once every instance that lives has told. KEYS[2]: those that have yet to. ARGV: the least age of
-- an epoch in seconds, and after how many an instance that said it would tell counts as dead.
if state() ~= 'counting' then return {state()} end
local time = now()
if time - tonumber(redis.call('HGET', epoch, 'since')) < tonumber(ARGV[1]) then return {'counting'} end
local waiting = redis.call('HGETALL', KEYS[2])
for at = 2, #waiting, 2 do
  if time - tonumber(waiting[at]) < tonumber(ARGV[2]) then return {'counting'} end
end
redis.call('DEL', KEYS[2])
redis.call('HSET', epoch, 'state', 'ready')
return {'ready'}
