-- KEYS[2]: the open reservations; then the counters of all settlements. ARGV[2]: how many counters; for each its name,
-- and 1 if its period is so long over that nobody counts it any more; then for each settlement the request, how many
-- charges, and for each of them the number of its counter and the charge.
-- What is not open is left alone. Where a counter is not there, what is open in it stays so: `unknown` and the number of
-- the counter; it is begun, and the settlements are sent again.
local state = state()
if state ~= 'ready' then return {state} end
local counters = tonumber(ARGV[2])
local number_of, there = {}, {}
for at = 1, counters do
  number_of[ARGV[1 + at * 2]] = at
  there[at] = redis.call('HEXISTS', KEYS[2 + at], 's') == 1
end
local unknown
local at = 3 + counters * 2
while at <= #ARGV do
  local request, charges = ARGV[at], tonumber(ARGV[at + 1])
  local held = redis.call('HGET', KEYS[2], request)
  if held then
    local charge_of = {}
    for n = 1, charges do charge_of[tonumber(ARGV[at + n * 2])] = ARGV[at + n * 2 + 1] end
    local rest = {}
    for _, part in ipairs(cjson.decode(held)) do
      local number = number_of[part[1]]
      local charge = number and charge_of[number]
      if not charge then
        rest[#rest + 1] = part
      elseif there[number] then
        redis.call('HINCRBY', KEYS[2 + number], 'r', '-' .. part[2])
        redis.call('HINCRBY', KEYS[2 + number], 's', charge)
      elseif ARGV[2 + number * 2] ~= '1' then
        rest[#rest + 1] = part
        unknown = unknown or number
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
if unknown then return {'unknown', string.format('%d', unknown)} end
return {'ok'}
