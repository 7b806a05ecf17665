#!/usr/bin/env python3
"""Makes `_resources.py` from `_resources_async.py`: the same calls without `async`. `--check` only compares."""

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "lyss"
HEAD = '"""The calls of a gateway. Made by `tools/resources.py` from `_resources_async.py`; change that."""'


def made() -> str:
    source = (PACKAGE / "_resources_async.py").read_text()
    text = HEAD + source[source.index('"""', 3) + 3 :]
    for pattern, replacement in (
        (r"\basync def\b", "def"),
        (r"\bawait ", ""),
        (r"\bAsyncPager\b", "Page"),
        (r"\b(_?)Async([A-Z]\w*)", r"\1\2"),
    ):
        text = re.sub(pattern, replacement, text)
    return text


if __name__ == "__main__":
    target = PACKAGE / "_resources.py"
    if "--check" in sys.argv:
        sys.exit("run tools/resources.py" if target.read_text() != made() else 0)
    target.write_text(made())
