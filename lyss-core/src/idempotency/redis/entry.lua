-- What every script of an entry begins with. KEYS: entry (hash), reply (string); both have one hash tag.
-- Times are Redis's own, so that instances with different clocks agree.

local ENTRY, REPLY = KEYS[1], KEYS[2]
local OWNER = ARGV[1]

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end
