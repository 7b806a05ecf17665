#!/bin/sh
# Builds the package and runs its tests, then those with the SDKs of others. The native part is the one that the
# workspace's own build makes (`cargo build --workspace --all-targets`), so that nothing is compiled twice.
#
#   lyss-node/test/run.sh [build|test]     default: both
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$(cd .. && pwd)/target}
what=${1:-all}

if [ "$what" != test ]; then
    [ -x node_modules/.bin/tsc ] || npm install --no-package-lock --ignore-scripts --no-audit --no-fund --silent
    (cd .. && cargo build --quiet --workspace --all-targets)
    for library in "$target"/debug/liblyss_node.so "$target"/debug/liblyss_node.dylib; do
        [ ! -f "$library" ] || LYSS_LIBRARY=$library node scripts/build.mjs
    done
fi

if [ "$what" != build ]; then
    rm -rf test/build
    node_modules/.bin/tsc -p test
    (
        cd test/sdk
        wanted=$(cksum <package-lock.json)
        if [ "$(cat node_modules/.installed 2>/dev/null)" != "$wanted" ]; then
            npm ci --ignore-scripts --no-audit --no-fund --silent
            echo "$wanted" >node_modules/.installed
        fi
    )
    LYSS_TEST_SERVICE=$target/debug/lyss node --test --expose-gc test/build/*.test.*js test/sdk/*.test.mjs
fi
