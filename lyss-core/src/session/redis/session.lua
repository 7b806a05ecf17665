-- What every script of a session begins with. KEYS: header (hash), messages (list); both have one hash tag.
-- Times are Redis's own, so that instances with different clocks agree.

local HEADER, MESSAGES = KEYS[1], KEYS[2]
local SCHEMA = '1'

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- nil: there is none. false and why: it cannot be read. Else version, messages, tokens, created, used, request.
local function open(user, id)
  local kind = redis.call('TYPE', HEADER).ok
  if kind == 'none' then return nil end
  if kind ~= 'hash' then return false, 'the header is of type ' .. kind end
  local owner = redis.call('HMGET', HEADER, 'schema', 'user', 'id')
  if owner[1] ~= SCHEMA then return false, 'unknown schema ' .. tostring(owner[1]) end
  if owner[2] ~= user or owner[3] ~= id then return false, 'the header names another session' end
  local fields = redis.call('HMGET', HEADER, 'version', 'messages', 'tokens', 'created', 'used', 'request')
  for at = 1, 5 do
    if not fields[at] or not string.find(fields[at], '^%d+$') then
      return false, 'a field of the header is not a number'
    end
  end
  local list = redis.call('TYPE', MESSAGES).ok
  if list ~= 'none' and list ~= 'list' then return false, 'the messages are of type ' .. list end
  -- Also finds the case that an evicting Redis has dropped one of the two keys.
  if redis.call('LLEN', MESSAGES) ~= tonumber(fields[2]) then return false, 'messages are missing' end
  return fields
end

local function create(user, id, at)
  redis.call('DEL', MESSAGES)
  redis.call('HSET', HEADER, 'schema', SCHEMA, 'user', user, 'id', id, 'version', 0, 'messages', 0, 'tokens', 0,
    'created', text(at), 'used', text(at))
end

local function expire(at, ttl)
  redis.call('PEXPIREAT', HEADER, text(at + ttl))
  redis.call('PEXPIREAT', MESSAGES, text(at + ttl))
end

-- Renews the life if an eighth of it is gone. Says whether it did: the listing's life is then renewed as well.
local function renew(ttl)
  if redis.call('PTTL', HEADER) >= ttl - math.floor(ttl / 8) then return 0 end
  expire(now(), ttl)
  return 1
end
