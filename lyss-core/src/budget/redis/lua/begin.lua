-- KEYS[2]: the open reservations; KEYS[3]: a counter that is not there. ARGV[2]: its name; ARGV[3]: what was spent, but
-- for the requests that are open; ARGV[4]: when it may be forgotten, in milliseconds since 1970.
-- While it is not there nothing is reserved of it and nothing settled, so what is open in it is what was left out.
local state = state()
if state ~= 'ready' then return {state} end
if redis.call('HEXISTS', KEYS[3], 's') == 1 then return {'ok'} end
local reserved = 0
for _, held in ipairs(redis.call('HVALS', KEYS[2])) do
  for _, part in ipairs(cjson.decode(held)) do
    if part[1] == ARGV[2] then reserved = reserved + tonumber(part[2]) end
  end
end
redis.call('HSET', KEYS[3], 's', ARGV[3], 'r', string.format('%.0f', reserved))
redis.call('PEXPIREAT', KEYS[3], ARGV[4])
return {'ok'}
