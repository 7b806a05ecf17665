#!/bin/sh
# The model asks for a tool; its result goes back in the next request.
# Needs a gateway: lyss serve --config examples/offline.yaml
set -eu
lyss() { # PATH [CURL OPTIONS…]
  path=$1 && shift
  curl -sS "${LYSS_URL:-http://127.0.0.1:8000/v1}$path" -H "authorization: Bearer ${LYSS_API_KEY:-none}" -H "content-type: application/json" "$@"
  echo
}

weather='{"type": "function", "function": {
  "name": "weather",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
}}'
question='{"role": "user", "content": "What is the weather in Paris?"}'

lyss /chat/completions -d "{
  \"model\": \"assistant\", \"messages\": [$question], \"tools\": [$weather],
  \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": \"weather\"}}
}"

# The id is that of the tool call in the answer above.
asked='{"role": "assistant", "content": null, "tool_calls": [
  {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Paris\"}"}}
]}'
lyss /chat/completions -d "{
  \"model\": \"assistant\", \"tools\": [$weather],
  \"messages\": [$question, $asked, {\"role\": \"tool\", \"tool_call_id\": \"call_1\", \"content\": \"18 degrees, sunny\"}]
}"
