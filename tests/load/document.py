"""Writes what was measured into docs/performance.md, between the markers of its part."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from servers import BenchError

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def write(part: str, table: str, rounds: int, seconds: float) -> None:
    """Puts a table between `<!-- part:begin -->` and `<!-- part:end -->`, with what it was measured on."""
    text = DOCUMENT.read_text()
    begin, end = (f"<!-- {part}:{edge} -->" for edge in ("begin", "end"))
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise BenchError(f"{DOCUMENT} has lost its markers {begin} and {end}")
    where = f"{cpu_model()}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}"
    made = f"{time.strftime('%Y-%m-%d')}, {where}; median of {rounds} rounds of {seconds:g} s (`make bench`)."
    DOCUMENT.write_text(f"{head}{begin}\n{made}\n\n{table.strip()}\n{end}{tail}")
    print(f"written to docs/{DOCUMENT.name}")


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
