#!/bin/sh
# The official SDKs (Python, Node) as clients. With LYSS_URL they test Lyss and nothing is left out; without it the mock
# provider alone. Environment: see README.md. Arguments: python, node (default: both).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=${CARGO_TARGET_DIR:-$root/target}/clients
mkdir -p "$work"
mock=

cleanup() {
    if [ -n "$mock" ]; then
        kill "$mock" 2>/dev/null || true
    fi
}
trap cleanup EXIT INT TERM

if [ -z "${MOCK_URL:-}" ]; then
    if [ -n "${LYSS_URL:-}" ]; then
        echo "LYSS_URL is set: MOCK_URL must name the mock provider behind it" >&2
        exit 2
    fi
    cargo build --quiet --manifest-path "$root/Cargo.toml" -p lyss-mock-provider
    : >"$work/mock.log"
    "${CARGO_TARGET_DIR:-$root/target}/debug/mock-provider" >"$work/mock.log" &
    mock=$!
    tries=0
    until grep -q "listening on" "$work/mock.log"; do
        tries=$((tries + 1))
        [ "$tries" -le 100 ] || { echo "the mock provider did not start" >&2; exit 3; }
        sleep 0.1
    done
    MOCK_URL=http://$(sed -n 's/^listening on //p' "$work/mock.log")
    export MOCK_URL
fi

python_suite() {
    wanted=$(cksum <"$here/python/requirements.txt")
    if [ "$(cat "$work/venv/.installed" 2>/dev/null)" != "$wanted" ]; then
        python3 -m venv "$work/venv"
        "$work/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
        echo "$wanted" >"$work/venv/.installed"
    fi
    PYTHONDONTWRITEBYTECODE=1 "$work/venv/bin/python" -m pytest -q -p no:cacheprovider "$here/python"
}

node_suite() {
    # Installed beside the build output, so that the source tree stays clean.
    mkdir -p "$work/node"
    cp -R "$here/node/package.json" "$here/node/package-lock.json" "$here/node/.npmrc" "$here/node/lib" "$here/node/test" "$work/node/"
    (
        cd "$work/node"
        wanted=$(cksum <package-lock.json)
        if [ "$(cat node_modules/.installed 2>/dev/null)" != "$wanted" ]; then
            npm ci --no-audit --no-fund --loglevel=error
            echo "$wanted" >node_modules/.installed
        fi
        npm test --silent
    )
}

failed=0
for suite in ${*:-python node}; do
    case $suite in
    python) python_suite || failed=1 ;;
    node) node_suite || failed=1 ;;
    *) echo "usage: $0 [python] [node]" >&2; exit 2 ;;
    esac
done
exit "$failed"
