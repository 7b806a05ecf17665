-- KEYS: messages on their way back (list). ARGV: how long they lie there, then messages.
redis.call('RPUSH', KEYS[1], unpack(ARGV, 2))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
