-- Notes what an instance has reserved. KEYS[2]: the instances that have yet to tell; KEYS[3]: the open reservations; then
-- the counters of them. ARGV[2]: the instance; ARGV[3]: 1 if this is the last of it; ARGV[4]: how many counters; their
-- names; then for each reservation the request and what it holds.
if state() == 'lost' then return {'lost'} end
local counters = tonumber(ARGV[4])
local key_of = {}
for at = 1, counters do key_of[ARGV[4 + at]] = KEYS[3 + at] end
for at = 5 + counters, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[3], ARGV[at], ARGV[at + 1]) == 1 then
    -- Only where the epoch has begun without this instance is a counter there already.
    for _, part in ipairs(cjson.decode(ARGV[at + 1])) do
      local key = key_of[part[1]]
      if key and redis.call('HEXISTS', key, 's') == 1 then redis.call('HINCRBY', key, 'r', part[2]) end
    end
  end
end
if ARGV[3] == '1' then redis.call('HDEL', KEYS[2], ARGV[2]) end
return {'ok'}
