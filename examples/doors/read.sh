#!/bin/sh
# ... and read here, over HTTP.
set -eu
curl -sS "${LYSS_URL:-http://127.0.0.1:8000/v1}/sessions/$1/messages?user_id=ada" -H "authorization: Bearer ${LYSS_API_KEY:-none}"
echo
