-- Also deletes what cannot be read: it is the owner's way out.
local found = redis.call('EXISTS', HEADER)
redis.call('UNLINK', HEADER, MESSAGES)
return found
