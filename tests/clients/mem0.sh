#!/bin/sh
# The official mem0 client as judge of the mock mem0, by hand: it brings 200 MB of other packages.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
work=$target/clients/mem0
mkdir -p "$work"
if [ ! -x "$work/venv/bin/python" ] || ! "$work/venv/bin/python" -c 'import mem0' 2>/dev/null; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check mem0ai==2.2.1
fi
cargo build --quiet --manifest-path "$root/Cargo.toml" -p lyss-mock-provider
: >"$work/mock.log"
"$target/debug/mock-provider" --mem0 platform --key m0-key >"$work/mock.log" &
mock=$!
trap 'kill "$mock" 2>/dev/null || true' EXIT INT TERM
tries=0
until grep -q "listening on" "$work/mock.log"; do
    tries=$((tries + 1))
    [ "$tries" -le 100 ] || { echo "the mock mem0 did not start" >&2; exit 3; }
    sleep 0.1
done
MEM0_TELEMETRY=False MEM0_DIR=$work MEM0_URL=http://$(sed -n 's/^listening on //p' "$work/mock.log") \
    "$work/venv/bin/python" "$here/python/mem0_sdk.py"
