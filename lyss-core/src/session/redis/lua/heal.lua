-- KEYS: a user's listing. ARGV: id and activity of sessions that are gone; one that came back since has another activity.
for at = 1, #ARGV, 2 do
  local seen = redis.call('ZSCORE', KEYS[1], ARGV[at])
  if seen and tonumber(seen) == tonumber(ARGV[at + 1]) then redis.call('ZREM', KEYS[1], ARGV[at]) end
end
return 1
