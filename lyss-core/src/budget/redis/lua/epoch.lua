-- Of every script. KEYS[1]: the epoch, a hash: `id`, `state` (`counting` or `ready`), `since` in seconds.
-- Without it Redis has lost what it knew, or never knew anything: then nothing may be granted before every instance has
-- told again what it has reserved.
local epoch = KEYS[1]
local function now() return tonumber(redis.call('TIME')[1]) end
local function state() return redis.call('HGET', epoch, 'state') or 'lost' end
