-- KEYS[2]: the open reservations, a hash from request to what it holds; then the counters, each a hash: `s` spent, `r`
-- reserved. ARGV[1]: the request; then for each counter its name, its limit and what is asked.
-- Gives the word for what came of it: `granted`; `short` and what is left of each; `unknown` and the number of a counter
-- that is not there; or the epoch's state, where it is not `ready`.
local state = state()
if state ~= 'ready' then return {state} end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return {'granted'} end
local left, short, held = {}, false, {}
for at = 1, #KEYS - 2 do
  local spent, reserved = unpack(redis.call('HMGET', KEYS[at + 2], 's', 'r'))
  if not spent then return {'unknown', at} end
  local name, limit, asked = ARGV[at * 3 - 1], tonumber(ARGV[at * 3]), ARGV[at * 3 + 1]
  local rest = limit - tonumber(spent) - tonumber(reserved or 0)
  if rest < tonumber(asked) then short = true end
  left[at] = string.format('%.0f', rest)
  held[at] = {name, asked}
end
if short then return {'short', unpack(left)} end
for at = 1, #KEYS - 2 do redis.call('HINCRBY', KEYS[at + 2], 'r', held[at][2]) end
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(held))
return {'granted'}
