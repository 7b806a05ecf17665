"""What a turn of a conversation costs, by how long the conversation is: the 10th beside the 1,000th.

Sessions are in a Redis of their own on the load's core, the window is small enough to be full at the 10th turn already,
and `strategy: truncate` keeps it so without a model. Measured are the gateway's CPU time and what goes to Redis and
comes from it, over a run of turns from the 10th on and up to the 1,000th of the same sessions, the background work of the run included.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from servers import BenchError, Lyss, Process, free_ports

SESSIONS = 16
LAST = 1_000
WINDOW = 20  # turns measured: from the 10th on, and up to the last
TEXT = "Tell me in a few words what comes next, and why it comes. "
CONFIG = """
session: { store: redis, max_tokens: 160, compression_threshold: 120, keep_recent: 2, strategy: truncate, ttl: 3600s, archive: false }
"""


@dataclass
class Cost:
    """Per turn: CPU of the gateway, bytes to Redis and from it."""

    cpu_us: float
    sent: float
    received: float


def measure(binary: Path, load_core: int | None, gateway_core: int | None, directory: Path, upstreams) -> tuple[Cost, Cost]:
    """The cost of a turn around the 10th and around the 1,000th."""
    redis = Redis(load_core, directory)
    redis.start()
    try:
        redis.wait()
        gateway = Lyss(binary, gateway_core, directory, upstreams, name="sessions", redis=redis.port, more=CONFIG)
        gateway.create_key()
        gateway.restart()
        try:
            return _turns(gateway, redis)
        finally:
            gateway.stop()
    finally:
        redis.stop()


def _turns(gateway: Lyss, redis: Redis) -> tuple[Cost, Cost]:
    talks = [Talk(gateway, number) for number in range(SESSIONS)]
    first = WINDOW // 2
    _all(talks, first)
    early = _window(talks, gateway, redis)
    _all(talks, LAST - first - 2 * WINDOW)
    late = _window(talks, gateway, redis)
    return early, late


def _window(talks: list[Talk], gateway: Lyss, redis: Redis) -> Cost:
    # What the turns before left to do in the background (the log, the archive) is not theirs; what these leave is.
    _rest(gateway)
    cpu, (sent, received) = gateway.cpu_seconds(), redis.traffic()
    _all(talks, WINDOW)
    _rest(gateway)
    turns = WINDOW * len(talks)
    cpu = gateway.cpu_seconds() - cpu
    sent, received = (now - before for now, before in zip(redis.traffic(), (sent, received)))
    return Cost(cpu / turns * 1e6, sent / turns, received / turns)


def _rest(gateway: Lyss) -> None:
    """Waits until the gateway has nothing to do, at most 15 s."""
    for _ in range(30):
        before = gateway.cpu_seconds()
        time.sleep(0.5)
        if gateway.cpu_seconds() - before < 0.005:
            return


def _all(talks: list[Talk], turns: int) -> None:
    threads = [threading.Thread(target=talk.go_on, args=(turns,)) for talk in talks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for talk in talks:
        if talk.error:
            raise BenchError(talk.error)


class Talk:
    """One session over one connection."""

    def __init__(self, gateway: Lyss, number: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["unary"], timeout=30)
        self.headers = {"content-type": "application/json", "authorization": f"Bearer {gateway.api_key}"}
        self.session = f"talk-{number}"
        self.error = ""

    def go_on(self, turns: int) -> None:
        message = {"role": "user", "content": TEXT}
        body = json.dumps({"model": "bench", "session_id": self.session, "messages": [message]})
        # One that was idle may have been closed by the gateway.
        self.connection.close()
        for _ in range(turns):
            try:
                self.connection.request("POST", "/v1/chat/completions", body, self.headers)
                answer = self.connection.getresponse()
                text = answer.read()
            except OSError as error:
                self.error = f"{self.session}: {error}"
                return
            if answer.status != 200:
                self.error = f"{self.session}: {answer.status} {text[:300]!r}"
                return


class Redis(Process):
    """A Redis that keeps nothing on disk."""

    def __init__(self, core: int | None, directory: Path):
        binary = shutil.which("redis-server")
        if binary is None:
            raise BenchError("redis-server is missing: tests/services/install.sh test")
        (self.port,) = free_ports(1)
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__("redis", command, core, directory / "redis.log")

    def wait(self) -> None:
        for _ in range(200):
            try:
                self.traffic()
                return
            except OSError:
                self.check()
                time.sleep(0.02)
        raise BenchError("redis does not answer")

    def traffic(self) -> tuple[int, int]:
        """Bytes that Redis has received and sent since its start, this question not counted."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as peer:
            peer.sendall(b"INFO stats\r\nQUIT\r\n")
            text = b""
            while part := peer.recv(65536):
                text += part
        fields = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
        return int(fields["total_net_input_bytes"]), int(fields["total_net_output_bytes"])


def markdown(early: Cost, late: Cost) -> str:
    """The table for the document, with the ratio that has a target."""
    rows = [
        ("CPU", early.cpu_us, late.cpu_us, "µs"),
        ("bytes to Redis", early.sent, late.sent, "B"),
        ("bytes from Redis", early.received, late.received, "B"),
    ]
    lines = [
        "| a turn of a session in Redis | 10th | 1,000th | ratio | target |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {a:,.0f} {unit} | {b:,.0f} {unit} | {b / a:.2f} | 0.8–1.2 {'✓' if 0.8 <= b / a <= 1.2 else '✗'} |"
        for name, a, b, unit in rows
    ]
    return "\n".join(lines) + "\n"
