#!/bin/sh
# One question, one answer.
# Needs a gateway: lyss serve --config examples/offline.yaml
set -eu
lyss() { # PATH [CURL OPTIONS…]
  path=$1 && shift
  curl -sS "${LYSS_URL:-http://127.0.0.1:8000/v1}$path" -H "authorization: Bearer ${LYSS_API_KEY:-none}" -H "content-type: application/json" "$@"
  echo
}

lyss /chat/completions -d '{
  "model": "assistant",
  "messages": [{"role": "user", "content": "Hello, Lyss!"}]
}'
