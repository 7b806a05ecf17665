#!/bin/sh
# A conversation: only what is new is sent, the gateway keeps the rest.
# Needs a gateway: lyss serve --config examples/offline.yaml
set -eu
lyss() { # PATH [CURL OPTIONS…]
  path=$1 && shift
  curl -sS "${LYSS_URL:-http://127.0.0.1:8000/v1}$path" -H "authorization: Bearer ${LYSS_API_KEY:-none}" -H "content-type: application/json" "$@"
  echo
}

session=example-$$

lyss /chat/completions -d "{
  \"model\": \"assistant\", \"session_id\": \"$session\",
  \"messages\": [{\"role\": \"user\", \"content\": \"My name is Ada.\"}]
}"
lyss /chat/completions -d "{
  \"model\": \"assistant\", \"session_id\": \"$session\",
  \"messages\": [{\"role\": \"user\", \"content\": \"What is my name?\"}]
}"
lyss "/sessions/$session/messages"
lyss "/sessions/$session" -X DELETE
