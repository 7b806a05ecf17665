-- ARGV: user, id, ttl (0: do not renew), index of the first message, how many at most, bytes after which to stop.
-- A read is cut into pages by the caller: one long session must not hold up all others, nor its own deadline.
local fields, why = open(ARGV[1], ARGV[2])
if fields == nil then return {'none'} end
if fields == false then return {'corrupt', why} end
local ttl = tonumber(ARGV[3])
local renewed = 0
if ttl > 0 then renewed = renew(ttl) end
local at, limit, budget = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local stop = math.min(at + limit, tonumber(fields[2]))
local found = {}
while at < stop and budget > 0 do
  local part = redis.call('LRANGE', MESSAGES, text(at), text(math.min(at + 8, stop) - 1))
  if #part == 0 then break end
  for _, message in ipairs(part) do
    if budget <= 0 then break end
    budget = budget - #message
    found[#found + 1] = message
  end
  at = at + #part
end
local extra = redis.call('HMGET', HEADER, 'metadata', 'system')
return {'ok', fields[1], fields[2], fields[3], fields[4], fields[5], renewed, extra[1], extra[2], found}
