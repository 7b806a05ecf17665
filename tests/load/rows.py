"""What is measured: one row of the table each, and one run of one row."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from servers import BenchError, Server, pin

WARMUP_S = 0.7


@dataclass(frozen=True)
class Row:
    """One load; `direct` also sends it straight to the upstream, to know what a gateway adds."""

    id: str
    model: str
    connections: int
    body: int = 200
    stream: bool = False
    direct: bool = False
    hold: bool = False
    """Keep all streams open; the figure is memory, in a process of its own."""
    fresh: bool = False
    """In a process just started, so that its memory is this row's."""


UNARY_1 = Row("200 B, 1 connection", "bench", 1, direct=True)
UNARY_32 = Row("200 B, 32 connections", "bench", 32)
UNARY_256 = Row("200 B, 256 connections", "bench", 256)
LARGE_REQUEST = Row("100 KB request, 32 connections", "bench", 32, body=102_400)
LARGE_ANSWER = Row("100 KB answer, 32 connections", "bench-large", 32)
PACED = Row("SSE, 16 streams of 100 chunks/s", "bench-paced", 16, stream=True, direct=True)
FIRST_TOKEN = Row("SSE, first token, 1 connection", "bench", 1, stream=True, direct=True)
LOADED = Row("100 KB both ways, 256 connections", "bench-large", 256, body=102_400, fresh=True)
OPEN_STREAMS = Row("1,000 open streams", "bench-slow", 1000, stream=True, hold=True, fresh=True)

ROWS = [
    UNARY_1,
    UNARY_32,
    UNARY_256,
    LARGE_REQUEST,
    LARGE_ANSWER,
    PACED,
    FIRST_TOKEN,
    LOADED,
    OPEN_STREAMS,
]


@dataclass
class Run:
    """What one run showed."""

    cpu_s: float
    rss_peak_mib: float
    load: dict

    def cpu_ms_per_1000(self, row: Row) -> float:
        units = self.load["events"] if row.stream else self.load["requests"]
        return self.cpu_s * 1e6 / max(units, 1)


def measure(row: Row, server: Server, loadgen: Path, core: int | None, seconds: float) -> Run:
    """Sends one row's load; CPU time is that between the generator's two lines.

    Raises BenchError when a request failed: figures of a server that drops requests say nothing.
    """
    command = [
        str(loadgen), server.url(row.model), "--model", row.model,
        "--mode", "stream" if row.stream else "unary",
        "--connections", str(row.connections), "--body", str(row.body),
        "--duration", str(seconds), "--warmup", str(WARMUP_S),
    ]  # fmt: skip
    if row.hold:
        command.append("--hold")
    load = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LYSS_API_KEY": server.api_key},
        preexec_fn=lambda: pin(core),
    )
    measured = server.child is not None
    peak = PeakMemory(server) if measured else None
    try:
        lines = iter(load.stdout)
        started = next(lines, "")
        before = server.cpu_seconds() if measured else 0.0
        result = next(lines, "")
        after = server.cpu_seconds() if measured else 0.0
        errors = load.stderr.read()
        failed = load.wait() or not started or not result
    finally:
        load.kill()
        rss = peak.end() if peak else 0.0
    if failed:
        server.check()
        raise BenchError(f"{server.name}, {row.id}: {errors.strip()}")
    report = json.loads(result)
    if report["errors"]:
        raise BenchError(f"{server.name}, {row.id}: {report['errors']} errors, last: {report['last_error']}")
    if not (report["events"] if row.stream else report["requests"]):
        raise BenchError(f"{server.name}, {row.id}: nothing was answered")
    return Run(after - before, rss, report)


class PeakMemory:
    """Samples a process's resident memory every 20 ms."""

    def __init__(self, server: Server):
        self.server, self.peak, self.over = server, server.rss_mib(), threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        while not self.over.wait(0.02):
            try:
                self.peak = max(self.peak, self.server.rss_mib())
            except (OSError, BenchError):
                return  # the process ended; `measure` reports it

    def end(self) -> float:
        self.over.set()
        self.thread.join()
        return self.peak


def idle_memory(server: Server) -> float:
    """Resident memory of a server that has answered once and then rested."""
    time.sleep(0.5)
    return server.rss_mib()
