-- The limits of one caller. KEYS: requests (sorted set: cumulative number of starts by millisecond), tokens (hash: tokens
-- by second), places (sorted set: end of the lease by request id). Times are Redis's own, so that instances with
-- different clocks agree.
-- ARGV: the window of requests in ms, the window of tokens in s, the lease in ms, then the limits of requests, tokens and
-- places (0: none), the tokens asked for, the id of the request ('': none, only what follows is done), how many requests
-- have ended, for each its id, the second that its tokens are noted in and by how many they are off; then the ids of
-- requests that go on.
-- Gives what is full (0 nothing, 1 requests, 2 tokens, 3 places), the wait in ms, requests and their reset in ms, tokens
-- and their reset in ms, and the second that the tokens are noted in.
local requests, tokens, places = KEYS[1], KEYS[2], KEYS[3]
local window, window_s, lease = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local rpm, tpm, concurrent = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local asked, id = tonumber(ARGV[7]), ARGV[8]
local function whole(number) return string.format('%.0f', number) end
local time = redis.call('TIME')
local second = tonumber(time[1])
local now = second * 1000 + math.floor(time[2] / 1000)

-- What has ended.
local at = 9
local ended = tonumber(ARGV[at])
for _ = 1, ended do
  local off = tonumber(ARGV[at + 3])
  redis.call('ZREM', places, ARGV[at + 1])
  if off < 0 then
    local noted = tonumber(redis.call('HGET', tokens, ARGV[at + 2]) or 0)
    if noted > 0 then redis.call('HINCRBY', tokens, ARGV[at + 2], whole(math.max(off, -noted))) end
  elseif off > 0 then
    redis.call('HINCRBY', tokens, whole(second), whole(off))
    redis.call('EXPIRE', tokens, window_s)
  end
  at = at + 3
end
-- What goes on, also where it is not known here: Redis was away, or has lost it.
for n = at + 1, #ARGV do
  redis.call('ZADD', places, whole(now + lease), ARGV[n])
  redis.call('PEXPIRE', places, lease)
end
if id == '' then return {0, 0, 0, 0, 0, 0, 0} end

local full, wait = 0, 0
local function refuse(which, pause)
  if full == 0 or pause > wait then full, wait = which, pause end
end

local count, total, last, last_number = 0, 0, 0, nil
if rpm > 0 then
  local newest = redis.call('ZREVRANGE', requests, 0, 0, 'WITHSCORES')
  if newest[1] then
    last_number, total, last = newest[1], tonumber(newest[1]), tonumber(newest[2])
    -- A replica that took over may be behind.
    now = math.max(now, last)
  end
  local gone = redis.call('ZREVRANGEBYSCORE', requests, whole(now - window), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local before = 0
  if gone[1] then
    before = tonumber(gone[1])
    -- The newest that is gone stays: it says how many are.
    redis.call('ZREMRANGEBYSCORE', requests, '-inf', '(' .. gone[2])
  end
  count = total - before
  if count >= rpm then
    -- The first of the starts that have to leave for one more, by halving.
    local wanted = total - rpm + 1
    local low, high = 0, redis.call('ZCARD', requests) - 1
    while low < high do
      local middle = math.floor((low + high) / 2)
      local number = tonumber(redis.call('ZRANGE', requests, middle, middle)[1])
      if number >= wanted then high = middle else low = middle + 1 end
    end
    local start = redis.call('ZRANGE', requests, low, low, 'WITHSCORES')
    refuse(1, math.max(1, tonumber(start[2]) + window - now))
  end
end

local spent, seconds, newest_second = 0, {}, 0
if tpm > 0 then
  local all = redis.call('HGETALL', tokens)
  for n = 1, #all, 2 do
    local of, sum = tonumber(all[n]), tonumber(all[n + 1])
    if second - of >= window_s then
      redis.call('HDEL', tokens, all[n])
    else
      spent = spent + sum
      seconds[of] = sum
      if sum > 0 then newest_second = math.max(newest_second, of) end
    end
  end
  local surplus = spent + asked - tpm
  if surplus > 0 then
    local of = second - window_s
    while surplus > 0 and of < second do
      of = of + 1
      surplus = surplus - (seconds[of] or 0)
    end
    refuse(2, math.max(1, (of + window_s) * 1000 - now))
  end
end

if concurrent > 0 then
  redis.call('ZREMRANGEBYSCORE', places, '-inf', whole(now))
  -- Nobody knows when a place comes free.
  if redis.call('ZCARD', places) >= concurrent then refuse(3, 1000) end
end

if full == 0 then
  if rpm > 0 then
    if last_number and last == now then redis.call('ZREM', requests, last_number) end
    redis.call('ZADD', requests, whole(now), whole(total + 1))
    redis.call('PEXPIRE', requests, window)
    count, last = count + 1, now
  end
  if tpm > 0 then
    redis.call('HINCRBY', tokens, whole(second), whole(asked))
    redis.call('EXPIRE', tokens, window_s)
    spent, newest_second = spent + asked, second
  end
  if concurrent > 0 then
    redis.call('ZADD', places, whole(now + lease), id)
    redis.call('PEXPIRE', places, lease)
  end
end
local reset, token_reset = 0, 0
if count > 0 then reset = math.max(0, last + window - now) end
if spent > 0 then token_reset = math.max(0, (newest_second + window_s) * 1000 - now) end
return {full, wait, count, reset, spent, token_reset, second}
