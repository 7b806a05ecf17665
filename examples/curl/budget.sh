#!/bin/sh
# What the session may cost bounds its answers, and then stops them: 402 budget_exceeded.
# Needs a gateway: lyss serve --config examples/offline.yaml
set -eu
lyss() { # PATH [CURL OPTIONS…]
  path=$1 && shift
  curl -sS "${LYSS_URL:-http://127.0.0.1:8000/v1}$path" -H "authorization: Bearer ${LYSS_API_KEY:-none}" -H "content-type: application/json" "$@"
  echo
}

session=example-budget-$$

# The limit of an answer is lowered to what is left: the header x-lyss-max-tokens-clamped tells.
for turn in 1 2 3 4 5 6 7 8; do
  lyss /chat/completions -o answer.json -w '%{http_code}, at most %header{x-lyss-max-tokens-clamped} tokens' -d "{
    \"model\": \"assistant\", \"session_id\": \"$session\",
    \"messages\": [{\"role\": \"user\", \"content\": \"Turn $turn: tell me more.\"}]
  }"
done
cat answer.json && rm answer.json
