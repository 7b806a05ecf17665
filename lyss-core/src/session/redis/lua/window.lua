-- Reads a session. `from` is the index of the first message; nil: the first after the prefix, and the prefix itself. A
-- read is cut into pages by the caller, after about `budget` bytes: one long session must not hold up all others, nor
-- its own deadline. With a ttl of 0 the session's life is not renewed.
local function read(user, id, ttl, from, limit, budget)
  local s, why
  if from then
    s, why = open(user, id, 'metadata')
  else
    s, why = open(user, id, 'metadata', 'system', 'history', 'summary')
  end
  if s == nil then return {'none'} end
  if s == false then return {'corrupt', why} end
  local answer = header(s, ttl > 0 and renew(ttl) or 0)
  local at = from or tonumber(s.upto)
  local stop = math.min(at + limit, tonumber(s.messages))
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
  local more = {s.system or false, s.history or false, s.prefix, s.covered, s.summary or false, s.summary_tokens, found}
  for _, value in ipairs(more) do answer[#answer + 1] = value end
  return answer
end
