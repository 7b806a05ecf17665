#!/usr/bin/env python3
"""Measures what Lyss costs, beside nginx as a plain proxy in the same run.

Load generator and mock upstream share one core, the gateway under test has the other. nginx and
Lyss take turns row by row, in several rounds; each figure is the median of the rounds. Lyss runs
its whole path: API keys, routing, metrics, the request log in SQLite.

    make bench                       the table, also written to docs/performance.md
    tests/load/bench.py --quick      one round of 2 s windows: does it all work?
    tests/load/bench.py --self-check nginx in Lyss's place: every ratio should be near 1.0, and how
                                     far it is from that is this machine's noise

Python 3.10 or later, standard library only. Needs nginx (tests/services/install.sh bench).
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True

import document  # noqa: E402
import sessions  # noqa: E402
from rows import ROWS, idle_memory, measure  # noqa: E402
from servers import BenchError, Direct, Lyss, Nginx  # noqa: E402
from table import Results, markdown, plain  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s windows; the document stays as it is")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each window")
    parser.add_argument("--self-check", action="store_true", help="nginx in Lyss's place")
    parser.add_argument("--bin-dir", type=Path, help="directory with ready binaries; without it a release build is made")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds = 1, 2.0
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    try:
        results = run(args)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    lines = results.lines()
    print("\n" + plain(lines))
    if results.turns:
        print("\n" + sessions.markdown(*results.turns))
    missed = sum(line.met is False for line in lines)
    print(f"\n{sum(line.met is True for line in lines)} targets met, {missed} missed")
    if not args.quick and not args.self_check:
        document.write("bench", f"{markdown(lines)}\n{sessions.markdown(*results.turns)}", args.rounds, args.seconds)
    return 0


def run(args: argparse.Namespace) -> Results:
    nginx_binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if nginx_binary is None:
        raise BenchError("nginx is missing: tests/services/install.sh bench")
    binaries = args.bin_dir or build(self_check=args.self_check)
    load_core, gateway_core = cores()
    raise_file_limit()
    results = Results()
    with tempfile.TemporaryDirectory(prefix="lyss-bench-") as name:
        directory = Path(name)
        direct = Direct(binaries / "mock-provider", load_core, directory)
        servers = []
        try:
            direct.restart()
            nginx = Nginx(nginx_binary, gateway_core, directory, direct.ports)
            if args.self_check:
                gateway = Nginx(nginx_binary, gateway_core, directory, direct.ports, name="lyss")
            else:
                gateway = Lyss(binaries / "lyss", gateway_core, directory, direct.ports)
                gateway.create_key()
            servers = [nginx, gateway]
            for number in range(args.rounds):
                one_round(number, args, results, direct, servers, binaries / "lyss-loadgen", load_core)
            if not args.self_check:
                for server in servers:
                    server.stop()
                results.turns = sessions.measure(binaries / "lyss", load_core, gateway_core, directory, direct.ports)
        finally:
            for server in [*servers, direct]:
                server.stop()
    return results


def one_round(number, args, results, direct, servers, loadgen, load_core) -> None:
    # Who goes first changes with the round, so that drift does not always hit the same one.
    order = servers if number % 2 == 0 else servers[::-1]
    for server in order:
        results.start[server.name].append(server.restart())
        results.idle[server.name].append(idle_memory(server))
    for row in ROWS:
        for server in [direct, *order] if row.direct else order:
            if row.fresh:
                server.restart()
            began = time.monotonic()
            result = measure(row, server, loadgen, load_core, args.seconds)
            results.runs[server.name, row.id].append(result)
            progress(number, args.rounds, server.name, row, result, time.monotonic() - began)


def progress(number, rounds, name, row, result, seconds) -> None:
    rate = result.load["events" if row.stream else "requests"] / result.load["elapsed_s"]
    text = f"[{number + 1}/{rounds}] {name:6} {row.id:34} {rate:9,.0f}/s  {seconds:4.1f} s"
    print(text, file=sys.stderr, flush=True)


def build(self_check: bool) -> Path:
    """Builds the release binaries; returns their directory."""
    packages = ["-p", "lyss-mock-provider", "-p", "lyss-loadgen"]
    if not self_check:
        packages += ["-p", "lyss-http"]
    if subprocess.run(["cargo", "build", "--release", "--bins", *packages], cwd=ROOT).returncode:
        raise BenchError("the release build failed")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def cores() -> tuple[int | None, int | None]:
    """A core for load and upstream, one for the gateway; neither is pinned when there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        print("bench: only one core: load and gateway share it, latencies say little", file=sys.stderr)
        return None, None
    return usable[0], usable[1]


def raise_file_limit() -> None:
    """1,000 streams are 2,000 sockets in the gateway; the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(16_384, hard)
    if wanted < 4_096:
        raise BenchError(f"at most {hard} open files allowed; 4096 are needed (ulimit -Hn)")
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
