-- KEYS[2]: the open reservations, a hash from request to what it holds; then the counters, each a hash: `s` spent, `r`
-- reserved. ARGV[2]: the request; ARGV[3]: how long a counter is kept that no period ends, in milliseconds; then for each
-- counter its name, its limit and what is asked.
-- Gives the word for what came of it: `granted`; `short` and what is left of each; `unknown` and the number of a counter
-- that is not there; or the epoch's state, where it is not `ready`.
local state = state()
if state ~= 'ready' then return {state} end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return {'granted'} end
local answer, held, short = {'short'}, {}, false
for at = 1, #KEYS - 2 do
  local spent, reserved = unpack(redis.call('HMGET', KEYS[at + 2], 's', 'r'))
  if not spent then return {'unknown', string.format('%d', at)} end
  local name, limit, asked = ARGV[at * 3 + 1], ARGV[at * 3 + 2], ARGV[at * 3 + 3]
  local rest = tonumber(limit) - tonumber(spent) - tonumber(reserved or 0)
  if rest < tonumber(asked) then short = true end
  answer[at + 1] = string.format('%.0f', rest)
  held[at] = {name, asked}
end
if short then return answer end
for at = 1, #KEYS - 2 do
  redis.call('HINCRBY', KEYS[at + 2], 'r', held[at][2])
  -- `total` never ends: kept while it is used, and counted from the log if it is used again.
  if string.find(held[at][1], '^[^:]*:%d+%-:') then redis.call('PEXPIRE', KEYS[at + 2], ARGV[3]) end
end
redis.call('HSET', KEYS[2], ARGV[2], cjson.encode(held))
return {'granted'}
