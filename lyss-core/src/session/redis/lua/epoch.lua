-- KEYS: the epoch (hash). ARGV: the server's run, and what of `lost` is known to be nothing ('' for none).
-- Answers the time, since when nothing that was stored has been lost, since when this server is asked, and whether the
-- epoch begins with this call.
local time = redis.call('TIME')
local at = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local epoch = redis.call('HMGET', KEYS[1], 'run', 'lost', 'moved')
if not epoch[2] then
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'lost', at, 'moved', '0')
  return {at, at, '0', '1'}
end
if epoch[1] ~= ARGV[1] then
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'moved', at)
  epoch[3] = at
end
if epoch[2] == ARGV[2] then
  redis.call('HSET', KEYS[1], 'lost', '0')
  epoch[2] = '0'
end
return {at, epoch[2], epoch[3], '0'}
