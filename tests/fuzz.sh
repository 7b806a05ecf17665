#!/usr/bin/env bash
# Runs every fuzz target for a short while: fuzz.sh [SECONDS per target], default 20.
#
# libFuzzer needs a nightly toolchain. Without one this says so and succeeds on a developer's
# machine; with CI set it fails, so that nobody believes the targets ran.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}

if ! cargo +nightly --version >/dev/null 2>&1; then
  echo "fuzz: no nightly toolchain (rustup toolchain install nightly): nothing was fuzzed" >&2
  [ -z "${CI:-}" ]
  exit
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  log=$(mktemp)
  cargo install --quiet --locked cargo-fuzz >"$log" 2>&1 || { cat "$log" >&2; exit 3; }
  rm -f "$log"
fi

mapfile -t manifests < <(git ls-files --cached --others --exclude-standard -- '*fuzz/Cargo.toml')
[ ${#manifests[@]} -gt 0 ] || { echo "fuzz: no fuzz/Cargo.toml in the repository" >&2; exit 1; }
work=$(mktemp -d) # libFuzzer writes what it finds into the first directory it is given: not into the committed seeds
trap 'rm -rf "$work"' EXIT
for manifest in "${manifests[@]}"; do
  directory=$(dirname "$manifest")
  mapfile -t targets < <(cargo +nightly fuzz list --fuzz-dir "$directory")
  [ ${#targets[@]} -gt 0 ] || { echo "fuzz: $directory has no target" >&2; exit 1; }
  for target in "${targets[@]}"; do
    echo "fuzz: $target, $seconds s"
    corpora=("$work/$target")
    mkdir "${corpora[0]}"
    if [ -d "$directory/corpus/$target" ]; then corpora+=("$directory/corpus/$target"); fi
    cargo +nightly fuzz run --fuzz-dir "$directory" "$target" "${corpora[@]}" -- -max_total_time="$seconds" -verbosity=0 -print_final_stats=1
  done
done
