#!/usr/bin/env bash
# Fails when a tracked file names a directory of one machine or a package registry other than the public ones.
set -euo pipefail
cd "$(dirname "$0")/../.."
status=0

report() { echo "portable: $1" >&2; status=1; }

# Paths that exist on the author's machine only.
paths="(^|[^[:alnum:]_.~-])/(root|work)/"
case ${HOME:-/} in / | /root) ;; *) paths="$paths|$HOME/" ;; esac
if found=$(git grep -nIE "$paths" -- ':!LICENSE'); then report "a path of one machine:
$found"; fi

# Lock files: every source is the public registry or nothing.
if found=$(git grep -nE '^source = ' -- '*Cargo.lock' | grep -vF 'registry+https://github.com/rust-lang/crates.io-index'); then
  report "a crate that is not from crates.io:
$found"
fi
if found=$(git grep -nE '"resolved": "' -- '*package-lock.json' | grep -vE '"(https://registry\.npmjs\.org|\.\.)/'); then
  report "an npm package that is not from registry.npmjs.org:
$found"
fi

# Settings that send every build to someone's mirror.
if found=$(git grep -nIE '^[[:space:]]*(registry[[:space:]]*=|(--)?(extra-)?index-url|replace-with)' -- '*.npmrc' '*pip.conf' '*requirements*.txt' '*.cargo/config*'); then
  report "a registry setting:
$found"
fi
exit $status
