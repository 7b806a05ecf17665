#!/bin/sh
# The first provider fails, the second answers; the log says what was tried and why.
# Needs a gateway: lyss serve --config examples/offline.yaml
set -eu
lyss() { # PATH [CURL OPTIONS…]
  path=$1 && shift
  curl -sS "${LYSS_URL:-http://127.0.0.1:8000/v1}$path" -H "authorization: Bearer ${LYSS_API_KEY:-none}" -H "content-type: application/json" "$@"
  echo
}

lyss /chat/completions -D /dev/stderr -d '{
  "model": "steady",
  "messages": [{"role": "user", "content": "Are you there?"}]
}' 2>head.txt
grep -iE '^x-(lyss|request)' head.txt
request=$(sed -n 's/^x-request-id: \([0-9a-f-]*\).*/\1/p' head.txt)
rm head.txt
lyss "/requests/$request"
