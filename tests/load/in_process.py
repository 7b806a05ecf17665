#!/usr/bin/env python3
"""Measures a call in the process: Lyss in Python and Node beside the clients that people use there.

Each client runs in a process of its own, pinned to the gateway's core, against the mock upstream on the load's core; they
take turns, in several rounds, and each figure is the median of the rounds. Lyss runs its whole path: routing, metrics, the
spool, the request log in SQLite. The others send the request and read the answer, LiteLLM's router routes.

    make bench                          with the rest; the table goes into docs/performance.md
    tests/load/in_process.py --quick    one round of 1 s windows

Installs what it compares with (httpx, aiohttp, openai, litellm; the AI SDK) below the build output, nowhere else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

sys.dont_write_bytecode = True

import document  # noqa: E402
from servers import BenchError, Direct, pin  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent / "in_process"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CONCURRENCIES = (1, 32, 64)
CLIENTS = {
    "Python": ["lyss", "aiohttp", "httpx", "openai", "litellm"],
    "Node": ["lyss", "fetch", "openai", "ai"],
}
NAMES = {
    "lyss": "Lyss",
    "httpx": "httpx",
    "openai": "openai SDK",
    "litellm": "LiteLLM Router",
    "ai": "Vercel AI SDK",
}
# Language, client, and at most how many times its CPU a call of Lyss may take, at 32 calls at once.
TARGETS = [("Python", "aiohttp", 0.75), ("Python", "litellm", 1 / 30), ("Node", "fetch", 1.0), ("Node", "ai", 0.5)]
IMPORT_MS = 70


def measure(direct: Direct, core: int | None, rounds: int, seconds: float) -> dict:
    """(language, client) -> runs."""
    commands = {"Python": [str(python()), str(HERE / "call.py")], "Node": [str(node()), str(node_folder() / "call.mjs")]}
    url = f"http://127.0.0.1:{direct.ports['unary']}/v1"
    runs = defaultdict(list)
    for number in range(rounds):
        for language, clients in CLIENTS.items():
            for client in clients if number % 2 == 0 else clients[::-1]:
                run = call([*commands[language], client, url, str(seconds), *map(str, CONCURRENCIES)], core)
                runs[language, client].append(run)
                print(f"[{number + 1}/{rounds}] {language:6} {client:8} {run['runs'][1]['cpu_us']:8,.0f} µs a call", file=sys.stderr, flush=True)
    return runs


def call(command: list[str], core: int | None) -> dict:
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: pin(core), timeout=300)
    if done.returncode:
        raise BenchError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def markdown(runs: dict) -> str:
    lines = []
    for language, clients in CLIENTS.items():
        heads = [f"CPU µs a call, {each} at once" for each in CONCURRENCIES]
        lines += ["", f"| {language} | {' | '.join(heads)} | p50 / p99 µs, 1 | calls/s, 1 / 64 | import, ms | RSS, MiB |"]
        lines += ["| --- |" + " ---: |" * (len(heads) + 4)]
        for client in clients:
            of = lambda read: median(read(run) for run in runs[language, client])  # noqa: E731
            at = lambda index, figure: of(lambda run: run["runs"][index][figure])  # noqa: E731
            cpu = " | ".join(f"{at(index, 'cpu_us'):,.0f}" for index in range(len(CONCURRENCIES)))
            lines.append(
                f"| {NAMES.get(client, client)} | {cpu} | {at(0, 'p50_us'):,.0f} / {at(0, 'p99_us'):,.0f} "
                f"| {at(0, 'calls_per_s'):,.0f} / {at(2, 'calls_per_s'):,.0f} "
                f"| {of(lambda run: run['import_ms']):,.0f} | {of(lambda run: run['rss_mib']):,.0f} |"
            )
    lines.append("")
    for language, client, most in TARGETS:
        cpu = lambda name: median(run["runs"][1]["cpu_us"] for run in runs[language, name])  # noqa: E731
        ratio = cpu("lyss") / cpu(client)
        met = "met" if ratio <= most else "**missed**"
        lines.append(f"- {language}, 32 at once: {ratio:.3f} × the CPU of {NAMES.get(client, client)} (target {most:.3f}): {met}.")
    begun = median(run["import_ms"] for run in runs["Python", "lyss"])
    lines.append(f"- `import lyss`: {begun:.0f} ms (target {IMPORT_MS}): {'met' if begun <= IMPORT_MS else '**missed**'}.")
    return "\n".join(lines).strip()


def python() -> Path:
    """A Python with the package as its users build it, and what it is compared with."""
    folder = TARGET / "bench-python"
    executable = folder / "bin" / "python"
    if not executable.exists():
        run([sys.executable, "-m", "venv", str(folder)])
        run([str(executable), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "aiohttp", "httpx", "openai", "litellm"])
    install = [str(executable), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--force-reinstall", "--no-deps"]
    run([*install, str(ROOT / "lyss-py")], CARGO_TARGET_DIR=str(TARGET))
    return executable


def node() -> str:
    found = shutil.which("node", path=f"{TARGET}/tools/node_modules/node/bin:{os.environ.get('PATH', '')}")
    if found is None:
        raise BenchError("node is missing: tests/services/install.sh test")
    return found


def node_folder() -> Path:
    """A folder with the package as its users build it, what it is compared with, and the program."""
    folder = TARGET / "bench-node"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "call.mjs", folder)
    run(["cargo", "build", "--release", "-p", "lyss-node"])
    if not (folder / "node_modules" / "ai").exists():
        (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
        run(["npm", "install", "--no-audit", "--no-fund", "--silent", "openai", "ai", "@ai-sdk/openai-compatible"], cwd=folder)
    library = next(path for name in ("liblyss_node.so", "liblyss_node.dylib") if (path := TARGET / "release" / name).exists())
    package = folder / "node_modules" / "lyss"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "lyss-node", package, ignore=shutil.ignore_patterns("test", "node_modules", "*.node", "dist"), symlinks=True)
    run(["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"], cwd=package)
    run(["node", "scripts/build.mjs"], cwd=package, LYSS_LIBRARY=str(library))
    return folder


def run(command: list[str], cwd: Path = ROOT, **environment: str) -> None:
    if subprocess.run(command, cwd=cwd, env={**os.environ, **environment}).returncode:
        raise BenchError(f"failed: {' '.join(command)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 1 s windows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each window")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 1.0
    usable = sorted(os.sched_getaffinity(0))
    load, core = (usable[0], usable[1]) if len(usable) > 1 else (None, None)
    try:
        run(["cargo", "build", "--release", "-p", "lyss-mock-provider"])
        with tempfile.TemporaryDirectory(prefix="lyss-bench-") as name:
            direct = Direct(TARGET / "release" / "mock-provider", load, Path(name))
            direct.restart()
            try:
                table = markdown(measure(direct, core, args.rounds, args.seconds))
            finally:
                direct.stop()
        print("\n" + table)
        if not args.quick:
            document.write("in-process", table, args.rounds, args.seconds)
    except BenchError as error:
        print(f"in_process: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
