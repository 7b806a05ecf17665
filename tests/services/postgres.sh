#!/usr/bin/env bash
# A throwaway PostgreSQL for the tests.
#
#   postgres.sh start DIR [PORT]   makes a cluster in DIR, starts it (on a free port unless one is named), prints its URL
#   postgres.sh up DIR             starts a stopped one again, on the same port
#   postgres.sh stop DIR           stops it as a crash would (immediate mode)
#
# initdb refuses to run as root, so root lends the work to the user postgres. No fsync: what is
# committed survives a crash of the server (so not synchronous_commit=off), not one of the machine.
set -euo pipefail

bin=$(pg_config --bindir 2>/dev/null || true)
[ -x "$bin/initdb" ] || bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -1)
[ -x "$bin/initdb" ] || { echo "postgres.sh: PostgreSQL's server is not installed (apt-get install postgresql)" >&2; exit 1; }

as_owner() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

up() {
  local port
  port=$(cat "$dir/port")
  as_owner "$bin/pg_ctl" -D "$dir/data" -w -t 30 -l "$dir/server.log" -o "-p $port -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories=$dir -c fsync=off -c full_page_writes=off \
    -c max_connections=200 -c shared_buffers=64MB" start >/dev/null 2>&1
}

command=${1:?start, up or stop}
mkdir -p "${2:?a directory}"
dir=$(cd "$2" && pwd)
cd "$dir"
case $command in
start)
  if [ "$(id -u)" = 0 ]; then chown postgres "$dir"; fi
  chmod 700 "$dir"
  as_owner "$bin/initdb" -D "$dir/data" -U lyss -A trust --no-sync --no-locale -E UTF8 >"$dir/initdb.log" 2>&1 ||
    { cat "$dir/initdb.log" >&2; exit 1; }
  # Another process may take a free port before the server does: choose again then.
  for _ in 1 2 3 4 5; do
    echo "${3:-$(free_port)}" >"$dir/port"
    if up; then echo "postgres://lyss@127.0.0.1:$(cat "$dir/port")/postgres"; exit 0; fi
  done
  cat "$dir/server.log" >&2
  exit 1
  ;;
up) up ;;
stop) as_owner "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null ;;
*) echo "postgres.sh: unknown command $command" >&2; exit 2 ;;
esac
