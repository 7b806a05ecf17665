"""The package itself: its types, its documentation, and what it costs to import."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lyss
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# What it may take to import the package, in CPU time; the least of some tries.
IMPORT_MS = 70


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=300, **options
    )


def test_metadata() -> None:
    told = importlib.metadata.metadata("lyss")
    assert told["License-Expression"] == "Apache-2.0" and told["Requires-Python"] == ">=3.10"
    assert lyss.__version__ == importlib.metadata.version("lyss")
    requirements = importlib.metadata.requires("lyss") or []
    assert all("extra ==" in requirement for requirement in requirements), "no dependencies"
    assert (Path(lyss.__file__).parent / "py.typed").exists()
    assert "# lyss" in (told.get_payload() or told["Description"])


def test_import_time() -> None:
    code = (
        "import time; wall, cpu = time.perf_counter(), time.process_time(); import lyss;"
        "print(time.process_time() - cpu)"
    )
    took = min(float(run("-c", code).stdout) for _ in range(7))
    assert took * 1000 <= IMPORT_MS


def test_import_is_lazy() -> None:
    code = "import sys, lyss; print(*sys.modules)"
    modules = set(run("-c", code).stdout.split())
    assert not modules & {"asyncio", "httpx", "openai", "pydantic", "logging", "urllib.parse"}


def test_the_calls_of_both_kinds_are_the_same() -> None:
    assert run(str(ROOT / "tools" / "resources.py"), "--check").returncode == 0


def test_stubs(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    environment = {**os.environ, "MYPYPATH": str(ROOT / "python")}
    checked = run("-m", "mypy.stubtest", "lyss", cwd=tmp_path, env=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_types() -> None:
    pytest.importorskip("mypy")
    files = [str(HERE / name) for name in ("typed.py", "test_calls.py", "test_async.py")]
    checked = run("-m", "mypy", "--strict", "--follow-untyped-imports", *files, cwd=HERE)
    assert checked.returncode == 0, checked.stdout


def test_the_readme(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert len(blocks) >= 8
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks))
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    environment.update(HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path))
    ran = run(str(script), cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    for line in ("hello 3", "one two three", "['a', 'b']", "404 session_not_found", "HELLO"):
        assert line in ran.stdout, ran.stdout
