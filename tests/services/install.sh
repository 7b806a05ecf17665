#!/usr/bin/env bash
# Installs what the tests or the benchmark need from Debian and npm, and nothing that is there already.
#
#   install.sh [test|bench]
#
# Needs root or sudo only when something is missing. Services that a package would start stay down:
# the tests start their own. cargo-nextest is used where it is present and not built here: compiling
# it takes longer than it saves; `cargo test` runs the same tests.
set -euo pipefail

what=${1:-test}
root=$(cd "$(dirname "$0")/../.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
own_policy=

cleanup() {
  rm -f "$log"
  if [ -n "$own_policy" ]; then as_root rm -f "$policy"; fi
}
trap cleanup EXIT

fail() { echo "install.sh: $*" >&2; exit 3; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else fail "root or sudo is needed to install: ${missing[*]}"
  fi
}

quiet() { "$@" >"$log" 2>&1 || { cat "$log" >&2; fail "failed: $*"; }; }

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }

missing=()
need() { # COMMAND PACKAGE…: the packages when the command is missing
  PATH=$PATH:/usr/sbin command -v "$1" >/dev/null || missing+=("${@:2}")
}

has_node() { command -v node >/dev/null && [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ]; }

need python3 python3
need cc gcc libc6-dev # ring and SQLite are compiled from C
case $what in
test)
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing+=(postgresql)
  need redis-server redis-server
  need curl curl
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  need node nodejs
  need npm npm
  ;;
bench)
  need nginx nginx-light
  need wrk wrk
  ;;
*) fail "unknown set '$what': test or bench" ;;
esac

if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || fail "please install: ${missing[*]} (no apt-get here)"
  echo "installing ${missing[*]}" >&2
  if [ ! -e "$policy" ]; then
    own_policy=1
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod +x "$policy"
  fi
  apt install --no-install-recommends -y "${missing[@]}" >"$log" 2>&1 || {
    quiet apt update
    quiet apt install --no-install-recommends -y "${missing[@]}"
  }
fi

# Debian 12's Node is 18; the official SDK needs 20 or later. npm carries Node itself.
if [ "$what" = test ] && ! has_node && ! [ -x "$tools/node_modules/node/bin/node" ]; then
  echo "installing node 22 below $tools" >&2
  mkdir -p "$tools"
  quiet npm install --silent --no-fund --no-audit --no-save --prefix "$tools" node@22
fi
