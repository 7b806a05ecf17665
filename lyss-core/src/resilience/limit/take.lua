-- Takes a place in every window, or in none. KEYS: the windows, each a list of the times of its last starts in
-- microseconds, the latest last. ARGV: the length of a window in microseconds, then the limit of each, at least 1.
-- Times are Redis's own, so that instances with different clocks agree.
-- Gives 0 and the time of the start; or the number of the first full window, and for how long it stays full.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local length = tonumber(ARGV[1])
for window, key in ipairs(KEYS) do
  -- Of the last N starts the first: N more may follow a window's length after it.
  local first = redis.call('LINDEX', key, -tonumber(ARGV[window + 1]))
  if first and now - first < length then return {window, first + length - now} end
end
for _, key in ipairs(KEYS) do
  redis.call('RPUSH', key, string.format('%.0f', now))
  -- One comes, so it is enough that a few go; a script that cleared a long list at once would hold up the others.
  for _ = 1, 4 do
    local oldest = redis.call('LINDEX', key, 0)
    if now - oldest < length then break end
    redis.call('LPOP', key)
  end
  redis.call('PEXPIRE', key, math.ceil(length / 1000))
end
return {0, now}
