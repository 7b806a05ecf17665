-- Notes what an instance has reserved. KEYS[2]: the instances that have yet to tell; KEYS[3]: the open reservations; then
-- the counters of all of them. ARGV: the instance; the epoch; whether this is all of it (1 or 0); how many counters;
-- their names; then for each reservation the request and what it holds as JSON.
if redis.call('HGET', epoch, 'id') ~= ARGV[2] then return {'lost'} end
local counters = tonumber(ARGV[4])
local key_of = {}
for at = 1, counters do key_of[ARGV[4 + at]] = KEYS[3 + at] end
for at = 5 + counters, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[3], ARGV[at], ARGV[at + 1]) == 1 then
    -- A counter that is there already does not know it; one that is not will count it when it begins.
    for _, part in ipairs(cjson.decode(ARGV[at + 1])) do
      local key = key_of[part[1]]
      if key and redis.call('HEXISTS', key, 's') == 1 then redis.call('HINCRBY', key, 'r', part[2]) end
    end
  end
end
if ARGV[3] == '1' then redis.call('HDEL', KEYS[2], ARGV[1]) end
return {'ok'}
