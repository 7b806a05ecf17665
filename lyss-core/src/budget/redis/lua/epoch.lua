-- Of every script. KEYS[1]: the epoch, a hash: `id`; `state`, `counting` or `ready`; `run`, the server's run id; `since`,
-- in milliseconds. ARGV[1]: the epoch that the caller knows. Counters have it in their names.
-- Without it Redis has lost what it knew, or never knew anything: then nothing may be granted before every instance has
-- told again what it has reserved.
local epoch = KEYS[1]
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function state()
  local id, state = unpack(redis.call('HMGET', epoch, 'id', 'state'))
  if not id or id ~= ARGV[1] then return 'lost' end
  return state
end
