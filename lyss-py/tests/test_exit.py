"""How a process ends that has not closed its gateways."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lyss
import pytest

from conftest import USER

HEAD = """
import json, sys, threading, time, lyss
gw = lyss.Gateway(config=json.loads(sys.argv[1]))
def chat(text="x", **more):
    messages = [{"role": "user", "content": text}]
    return gw.chat.completions.create(model="simulated/echo", messages=messages, **more)
"""


def ended(config: dict[str, Any], code: str) -> float:
    """Runs a program to its end; how long that took, in seconds."""
    start = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", HEAD + code, json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return time.monotonic() - start


@pytest.mark.parametrize(
    "code",
    [
        "chat()",
        "chat(); del gw",
        "stream = chat('a b c', stream=True); next(stream)",
        "with gw: chat()",
        "chat(); holder = [gw]; holder.append(holder); del gw, holder",
        # A thread that still calls when the interpreter ends.
        "def go():\n  while True:\n    try: chat()\n    except lyss.LyssError: return\n"
        "threading.Thread(target=go, daemon=True).start(); time.sleep(0.3); chat()",
        # A loop that ends with a call and a stream open.
        "import asyncio\nagw = lyss.AsyncGateway(config=json.loads(sys.argv[1]))\n"
        "async def go():\n"
        "  m = dict(model='simulated/echo', messages=[{'role': 'user', 'content': 'a b'}])\n"
        "  s = await agw.chat.completions.create(**m, stream=True); await s.__anext__()\n"
        "  t = asyncio.create_task(agw.chat.completions.create(**m)); await asyncio.sleep(0)\n"
        "asyncio.run(go()); chat()",
        # A provider whose loop's thread runs on.
        "class P:\n  async def chat(self, request): return 'x'\n"
        "gw.register_provider('p', P()); m = [{'role': 'user', 'content': 'x'}]\n"
        "gw.chat.completions.create(model='p/m', messages=m)",
    ],
)
def test_it_ends_and_every_request_is_logged(config: dict[str, Any], code: str) -> None:
    assert ended(config, code) < 15
    with lyss.Gateway(config=config) as gw:
        deadline = time.monotonic() + 10
        while sum(total.requests for total in gw.usage()) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gw.chat.completions.create(model="simulated/echo", messages=USER)


def test_what_is_spooled_is_written_at_the_end(config: dict[str, Any]) -> None:
    import sqlite3

    ended(config, "for _ in range(20): chat()")
    database = next(Path(config["data"]["dir"]).glob("*.db"))
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM request_logs").fetchone() == (20,)
