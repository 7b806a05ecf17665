-- What every script of a session begins with. KEYS: header (hash), messages (list), turns (hash), queue (sorted set),
-- deletion (string); all have one hash tag. Times are Redis's own, so that instances with different clocks agree.

local HEADER, MESSAGES, DELETED = KEYS[1], KEYS[2], KEYS[5]
local SCHEMA = '1'

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

local FIELDS = {'schema', 'user', 'id', 'version', 'messages', 'tokens', 'created', 'used', 'request', 'prefix', 'upto',
  'covered', 'summary_tokens', 'compressing', 'compressing_until'}
local NUMBERS = {'version', 'messages', 'tokens', 'created', 'used'}
-- Absent before the first compression.
local PREFIX_NUMBERS = {'prefix', 'upto', 'covered', 'summary_tokens', 'compressing_until'}

-- nil: there is none. false and why: it cannot be read. Else the fields by name, and those asked for besides.
local function open(user, id, ...)
  local names = {unpack(FIELDS)}
  for _, name in ipairs({...}) do names[#names + 1] = name end
  local values = redis.pcall('HMGET', HEADER, unpack(names))
  if values.err then return false, 'the header is no hash' end
  local s = {}
  for at, name in ipairs(names) do s[name] = values[at] end
  if not s.schema and redis.call('EXISTS', HEADER) == 0 then return nil end
  if s.schema ~= SCHEMA then return false, 'unknown schema ' .. tostring(s.schema) end
  if s.user ~= user or s.id ~= id then return false, 'the header names another session' end
  for _, name in ipairs(PREFIX_NUMBERS) do s[name] = s[name] or '0' end
  for _, list in ipairs({NUMBERS, PREFIX_NUMBERS}) do
    for _, name in ipairs(list) do
      if not s[name] or not string.find(s[name], '^%d+$') then return false, name .. ' is not a number' end
    end
  end
  if tonumber(s.upto) > tonumber(s.messages) then return false, 'the prefix covers more than there is' end
  local length = redis.pcall('LLEN', MESSAGES)
  if type(length) == 'table' then return false, 'the messages are no list' end
  -- Also finds the case that an evicting Redis has dropped one of the two keys.
  if length ~= tonumber(s.messages) then return false, 'messages are missing' end
  return s
end

-- A new session; fields as `open` gives them.
local function create(user, id, at)
  -- Its creation tells a session from those before it under its id.
  at = math.max(at, (tonumber(redis.call('GET', DELETED) or '') or -1) + 1)
  redis.call('DEL', MESSAGES)
  redis.call('HSET', HEADER, 'schema', SCHEMA, 'user', user, 'id', id, 'version', 0, 'messages', 0, 'tokens', 0,
    'created', text(at), 'used', text(at))
  return {version = '0', messages = '0', tokens = '0', created = text(at), used = text(at), request = false,
    prefix = '0', upto = '0', covered = '0', summary_tokens = '0', compressing = false, compressing_until = '0'}
end

local function is_compressing(s)
  return s.compressing and tonumber(s.compressing_until) > now()
end

-- What every answer about a session begins with.
local function header(s, renewed)
  local compressing = is_compressing(s) and 1 or 0
  return {'ok', s.version, s.messages, s.tokens, s.created, s.used, renewed, s.upto, compressing, s.metadata or false}
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
