-- Whose turn it is; the rules are those of session/turns.rs. A place is `<request> <instance>`.
-- TURNS: `holder` (a place), `until` (the end of its lease), `deleted` (the session was, under this turn), `gone` (the
-- request that was told so last), `next` (the number of the last place given), `seen <instance>` (when it last asked).
-- QUEUE: the places that wait, by number. Both are gone when nobody has or waits for a turn.

local TURNS, QUEUE = KEYS[3], KEYS[4]
-- A queue that nobody has asked about for so long is nobody's.
local FORGOTTEN = 600000
-- Marks of instances beyond which old ones are looked for.
local MANY = 40

local function request_of(place) return string.match(place, '^%S+') end
local function instance_of(place) return string.match(place, ' (.*)$') end

-- Fields and length of the queue; nil and why if they cannot be read.
local function open_turns()
  local values = redis.pcall('HMGET', TURNS, 'holder', 'until', 'deleted', 'gone')
  if values.err then return nil, 'the turns are no hash' end
  local t = {holder = values[1], ends = tonumber(values[2] or '0'), deleted = values[3], gone = values[4]}
  if not t.ends or (t.holder and not instance_of(t.holder)) then return nil, 'the turn cannot be read' end
  t.length = redis.pcall('ZCARD', QUEUE)
  if type(t.length) == 'table' then return nil, 'the queue is no sorted set' end
  return t
end

local function is_held_by(t, request)
  return t.holder and request_of(t.holder) == request
end

local function keep(at, lease)
  local ends = text(at + lease + FORGOTTEN)
  redis.call('PEXPIREAT', TURNS, ends)
  redis.call('PEXPIREAT', QUEUE, ends)
end

-- granted, waiting or busy.
local function begin_turn(t, request, instance, lease, first, wait, most)
  local at, me, mark = now(), request .. ' ' .. instance, 'seen ' .. instance
  -- A turn of this instance that is still there before its first was given up unheard.
  local over = t.holder and t.holder ~= me and (t.ends <= at or (first and instance_of(t.holder) == instance))
  if over then
    redis.call('HDEL', TURNS, 'holder', 'until', 'deleted')
    t.holder = false
  end
  local free = t.holder == me -- the answer to the last asking was lost
  if not t.holder then
    local head = t.length > 0 and redis.call('ZRANGE', QUEUE, 0, 0)[1]
    while head and head ~= me do
      local owner = instance_of(head) or ''
      local seen = tonumber(redis.call('HGET', TURNS, 'seen ' .. owner) or '')
      if not (first and owner == instance) and seen and at - seen < lease then break end
      redis.call('ZREM', QUEUE, head)
      t.length = t.length - 1
      head = redis.call('ZRANGE', QUEUE, 0, 0)[1]
    end
    free = not head or head == me
    if head == me then redis.call('ZREM', QUEUE, me) end
  end
  if free then
    redis.call('HSET', TURNS, 'holder', me, 'until', text(at + lease), mark, text(at))
    keep(at, lease)
    return 'granted'
  end
  redis.call('HSET', TURNS, mark, text(at))
  local waits = t.length > 0 and redis.call('ZSCORE', QUEUE, me)
  if not waits then
    if not wait or t.length >= most then return 'busy' end
    redis.call('ZADD', QUEUE, redis.call('HINCRBY', TURNS, 'next', 1), me)
  end
  keep(at, lease)
  return 'waiting'
end

-- Ends the turn that is held.
local function leave(t)
  if t.length == 0 then
    redis.call('DEL', TURNS)
    return
  end
  local at = now()
  redis.call('HDEL', TURNS, 'holder', 'until', 'deleted')
  -- Whoever waits on this instance asks at once: its places are not gone.
  redis.call('HSET', TURNS, 'seen ' .. instance_of(t.holder), text(at))
  if redis.call('HLEN', TURNS) <= MANY then return end
  local fields = redis.call('HGETALL', TURNS)
  for f = 1, #fields, 2 do
    if string.sub(fields[f], 1, 5) == 'seen ' and at - (tonumber(fields[f + 1]) or 0) >= FORGOTTEN then
      redis.call('HDEL', TURNS, fields[f])
    end
  end
end
