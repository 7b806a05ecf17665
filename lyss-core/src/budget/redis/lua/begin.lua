-- KEYS[2]: the open reservations; KEYS[3]: a counter that is not there. ARGV: its name; the epoch in which its spending
-- was counted; what was spent; when it may be forgotten, in milliseconds since 1970, or nothing.
-- What is open in the counter was left out of what was spent: it is its reserved sum.
if redis.call('HGET', epoch, 'id') ~= ARGV[2] or state() ~= 'ready' then return {state()} end
if redis.call('HEXISTS', KEYS[3], 's') == 1 then return {'ok'} end
local reserved = 0
local all = redis.call('HVALS', KEYS[2])
for _, held in ipairs(all) do
  for _, part in ipairs(cjson.decode(held)) do
    if part[1] == ARGV[1] then reserved = reserved + tonumber(part[2]) end
  end
end
redis.call('HSET', KEYS[3], 's', ARGV[3], 'r', string.format('%.0f', reserved))
if ARGV[4] ~= '' then redis.call('PEXPIREAT', KEYS[3], ARGV[4]) end
return {'ok'}
