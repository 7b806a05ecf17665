-- KEYS[2]: the open reservations; then the counters of all settlements. ARGV[1]: how many counters; their names; then
-- for each settlement the request, how many charges, and for each of them the number of its counter and the charge.
-- What is not open is left alone, and so is a counter that is not there: it will be counted from the log.
local counters = tonumber(ARGV[1])
local key_of = {}
for at = 1, counters do key_of[ARGV[1 + at]] = KEYS[2 + at] end
local at = 2 + counters
while at <= #ARGV do
  local request, charges = ARGV[at], tonumber(ARGV[at + 1])
  local held = redis.call('HGET', KEYS[2], request)
  if held then
    local charge_of = {}
    for n = 1, charges do
      charge_of[KEYS[2 + tonumber(ARGV[at + n * 2])]] = ARGV[at + n * 2 + 1]
    end
    local rest = {}
    for _, part in ipairs(cjson.decode(held)) do
      local key = key_of[part[1]]
      local charge = key and charge_of[key]
      if not charge then
        rest[#rest + 1] = part
      elseif redis.call('HEXISTS', key, 's') == 1 then
        redis.call('HINCRBY', key, 'r', '-' .. part[2])
        redis.call('HINCRBY', key, 's', charge)
      end
    end
    if #rest == 0 then
      redis.call('HDEL', KEYS[2], request)
    else
      redis.call('HSET', KEYS[2], request, cjson.encode(rest))
    end
  end
  at = at + 2 + charges * 2
end
return {'ok'}
