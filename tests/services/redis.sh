#!/usr/bin/env bash
# A throwaway Redis for tests: nothing is kept, nothing but this machine can reach it.
#
#   redis.sh start DIR [PORT]   one server (a free port unless given); prints its URL
#   redis.sh cluster DIR [PORT] three masters on PORT..PORT+2 (free ports unless given); prints their addresses
#   redis.sh stop DIR           stops what was started in DIR
#
# The server runs with the append-only file on, as production should (lyss warns otherwise).
set -euo pipefail

usage() {
  sed -n '4,6s/^# *//p' "$0" >&2
  exit 2
}

[ $# -ge 2 ] || usage
mkdir -p "$2"
dir=$(cd "$2" && pwd)

install_redis() {
  command -v redis-server >/dev/null && return
  [ "$(id -u)" = 0 ] || { echo "redis-server is missing: apt-get install redis-server" >&2; exit 3; }
  # The package would start a server of its own on 6379: policy-rc.d refuses that.
  local policy=/usr/sbin/policy-rc.d made=
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made=1; }
  { apt-get install -y --no-install-recommends redis-server ||
    { apt-get update && apt-get install -y --no-install-recommends redis-server; }; } >"$dir/apt.log" 2>&1 ||
    { cat "$dir/apt.log" >&2; exit 3; }
  [ -z "$made" ] || rm -f $policy
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() { # [OFFSET…]: a port that is free, and free at these offsets, too
  local port offset
  while :; do
    port=$((20000 + RANDOM % 12000))
    for offset in 0 "$@"; do taken $((port + offset)) && continue 2; done
    echo "$port"
    return
  done
}

serve() { # PORT [OPTION…]
  local port=$1 home=$dir/$1
  shift
  mkdir -p "$home"
  redis-server --bind 127.0.0.1 --port "$port" --dir "$home" --save '' --appendonly yes \
    --appendfsync everysec --daemonize yes --pidfile "$home/pid" --logfile "$home/log" "$@" >/dev/null
  for _ in $(seq 250); do
    [ "$(redis-cli -h 127.0.0.1 -p "$port" ping 2>/dev/null)" = PONG ] && return
    sleep 0.02
  done
  cat "$home/log" >&2
  exit 3
}

case $1 in
start)
  install_redis
  port=${3:-$(free_port)}
  serve "$port"
  echo "redis://127.0.0.1:$port/"
  ;;
cluster)
  install_redis
  first=${3:-$(free_port 1 2 10000 10001 10002)} # the nodes talk to each other 10000 above
  for port in "$first" $((first + 1)) $((first + 2)); do
    serve "$port" --cluster-enabled yes --cluster-node-timeout 2000
  done
  redis-cli --cluster create "127.0.0.1:$first" "127.0.0.1:$((first + 1))" "127.0.0.1:$((first + 2))" \
    --cluster-yes >"$dir/create.log" || { cat "$dir/create.log" >&2; exit 3; }
  # `create` returns before every node has heard of every other.
  for port in "$first" $((first + 1)) $((first + 2)); do
    for _ in $(seq 250); do
      redis-cli -p "$port" cluster info | grep -q cluster_state:ok && break
      sleep 0.02
    done
  done
  echo "127.0.0.1:$first,127.0.0.1:$((first + 1)),127.0.0.1:$((first + 2))"
  ;;
stop)
  for pid in "$dir"/*/pid; do
    [ -e "$pid" ] && kill "$(cat "$pid")" 2>/dev/null || true
  done
  ;;
*) usage ;;
esac
