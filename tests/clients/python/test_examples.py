"""The examples, run as a user would, against the gateway under test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import API_KEY, LYSS_URL

EXAMPLES = Path(__file__).parents[3] / "examples"

pytestmark = pytest.mark.lyss


def run(name, **environment):
    environment = {**os.environ, "LYSS_URL": LYSS_URL, "LYSS_API_KEY": API_KEY, **environment}
    command = [sys.executable, EXAMPLES / "python" / name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_long_conversation_stays_bounded():
    printed = run("long_conversation.py", LYSS_MODEL="simulated/echo", LYSS_TURNS="200")
    most = int(re.search(r"prompts of at most (\d+) tokens", printed)[1])
    # `session.max_tokens` (4,000) bounds what is stored and sent; the new message and the tools come on top.
    assert most < 4_600, printed
    whole = int(re.search(r"turn 200: .* about +(\d+)", printed)[1])
    assert whole > 2 * most, "the conversation was longer than the window"
