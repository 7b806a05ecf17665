#!/usr/bin/env bash
# Installs the package into an environment of its own, as `pip install ./lyss-py` does for a user (but unoptimised), and runs its tests.
#
#   lyss-py/tests/run.sh [build|test]     default: both
#
# The environment is `<target>/python`; its `bin/python` is what LYSS_TEST_PYTHON is to name.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$(cd .. && pwd)/target}
python=$target/python/bin/python
what=${1:-all}

if [ "$what" != test ]; then
  [ -x "$python" ] || python3 -m venv "$target/python"
  wanted=$(cksum <tests/requirements.txt)
  if [ "$(cat "$target/python/.installed" 2>/dev/null)" != "$wanted" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    echo "$wanted" >"$target/python/.installed"
  fi
  CARGO_TARGET_DIR=$target MATURIN_PEP517_ARGS="--profile dev" \
    "$python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps .
fi

if [ "$what" != build ]; then
  "$python" -m pytest -q tests
fi
