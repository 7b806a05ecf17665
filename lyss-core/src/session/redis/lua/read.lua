-- ARGV: user, id, ttl (0: do not renew), index of the first message ('': after the prefix), how many at most, bytes.
return read(ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]))
