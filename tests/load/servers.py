"""The processes of a benchmark: mock upstreams, nginx and Lyss.

Each is started on free loopback ports, pinned to a core, and stopped at the end. nginx and Lyss
serve the same three upstreams: `unary`, `paced` (a chunk every 10 ms) and `slow` (a chunk a second).
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

PATH = "/v1/chat/completions"
START_LIMIT_S = 20

# Upstream name -> flags of `mock-provider --bench`.
UPSTREAMS = {
    "unary": ["--large", "102400", "--chunks", "3", "--every", "0"],
    "paced": ["--chunks", "200", "--every", "10"],
    "slow": ["--chunks", "600", "--every", "1000"],
}
# Model name -> upstream. The mock answers with its large body where the name contains `large`.
MODELS = {
    "bench": "unary",
    "bench-large": "unary",
    "bench-paced": "paced",
    "bench-slow": "slow",
}


class BenchError(Exception):
    """The benchmark cannot go on; the message says why."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; all are held until all are known, so they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Process:
    """A child process on one core, with its output in a file."""

    def __init__(self, name: str, command: list[str], core: int | None, log: Path):
        self.name, self.command, self.core, self.log = name, command, core, log
        self.child: subprocess.Popen | None = None

    def start(self, environment: dict[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                preexec_fn=lambda: pin(self.core),
            )

    @property
    def pid(self) -> int:
        if self.child is None:
            raise BenchError(f"{self.name} is not running")
        return self.child.pid

    def check(self) -> None:
        if self.child is None or self.child.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise BenchError(f"{self.name} ended ({' '.join(self.command)}):\n{tail}")

    def stop(self) -> None:
        if self.child is None:
            return
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.child = None

    def cpu_seconds(self) -> float:
        """User and system time of all threads, ended ones too.

        The same figure as in /proc/<pid>/stat, read from the process's CPU clock because that
        counts nanoseconds instead of ticks of 10 ms (glibc's clock_getcpuclockid: ~pid << 3 | 2).
        """
        return time.clock_gettime((~self.pid << 3) | 2)

    def rss_mib(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        if not match:
            raise BenchError(f"{self.name} has no resident memory: it ended")
        return int(match[1]) / 1024


def pin(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


class Server(Process):
    """A process that answers chat requests."""

    api_key = ""
    ports: dict[str, int]

    def url(self, model: str) -> str:
        return f"http://127.0.0.1:{self.ports[MODELS[model]]}{PATH}"

    def restart(self) -> float:
        """Starts afresh; returns the seconds until the first 200."""
        self.stop()
        start = time.monotonic()
        self.start()
        while not self.answers():
            self.check()
            if time.monotonic() - start > START_LIMIT_S:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise BenchError(f"{self.name} gave no 200 within {START_LIMIT_S} s:\n{self.last}\n{tail}")
            time.sleep(0.001)
        return time.monotonic() - start

    last = ""

    def answers(self) -> bool:
        """Sends one chat request over a socket of its own; whether the status is 200."""
        body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "hi"}]})
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{self.ports['unary']}\r\nconnection: close\r\n"
        head += "content-type: application/json\r\n"
        if self.api_key:
            head += f"authorization: Bearer {self.api_key}\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        try:
            with socket.create_connection(("127.0.0.1", self.ports["unary"]), timeout=5) as peer:
                peer.sendall((head + body).encode())
                answer = peer.recv(4096)
        except OSError as error:
            self.last = str(error)
            return False
        self.last = answer.decode(errors="replace")
        return answer.startswith(b"HTTP/1.1 200")


class Direct(Server):
    """The mock upstreams themselves, one process each."""

    def __init__(self, binary: Path, core: int | None, directory: Path):
        self.ports = dict(zip(UPSTREAMS, free_ports(len(UPSTREAMS))))
        self.last = ""
        self.parts = []
        for name, flags in UPSTREAMS.items():
            command = [str(binary), "--bench", "--port", str(self.ports[name]), *flags]
            self.parts.append(Process(f"mock {name}", command, core, directory / f"mock-{name}.log"))
        super().__init__("direct", [], core, directory / "mock-unary.log")

    def start(self, environment: dict[str, str] | None = None) -> None:
        for part in self.parts:
            part.start(environment)

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def stop(self) -> None:
        for part in self.parts:
            part.stop()


class Nginx(Server):
    """nginx as a plain `proxy_pass` with keep-alive upstream connections: one process, no log.

    Bodies stay in memory and answers are not buffered: its best case for this traffic.
    """

    def __init__(self, binary: str, core: int | None, directory: Path, upstreams: dict[str, int], name="nginx"):
        self.ports = dict(zip(upstreams, free_ports(len(upstreams))))
        directory = directory / name
        directory.mkdir()
        servers = "".join(
            f"""
  upstream {name} {{ server 127.0.0.1:{port}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{self.ports[name]} backlog=4096;
    location / {{ proxy_pass http://{name}; }}
  }}"""
            for name, port in upstreams.items()
        )
        temporary = "".join(
            f"\n  {kind}_temp_path {directory}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = directory / "nginx.conf"
        config.write_text(
            f"""daemon off;
master_process off;
worker_rlimit_nofile 16384;
error_log stderr warn;
pid {directory}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;{temporary}
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  tcp_nodelay on;
  client_max_body_size 32m;
  client_body_buffer_size 256k;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_buffering off;
  proxy_buffer_size 16k;
  proxy_buffers 8 16k;
  proxy_read_timeout 600s;{servers}
}}
"""
        )
        command = [binary, "-p", str(directory), "-e", "stderr", "-c", str(config)]
        super().__init__(name, command, core, directory / "log")


class Lyss(Server):
    """The gateway with everything on: keys, routing, metrics, one log row a request in SQLite."""

    def __init__(self, binary, core, directory: Path, upstreams: dict[str, int], name="lyss", redis=None, more=""):
        """`redis` is a port on loopback, `more` further top-level sections of the configuration."""
        http, grpc, metrics = free_ports(3)
        self.ports = dict.fromkeys(upstreams, http)
        directory = directory / name
        directory.mkdir()
        config = directory / "gateway.yaml"
        providers = "".join(
            f"""
  bench_{name}:
    kind: openai
    api_key: upstream-key
    base_url: http://127.0.0.1:{port}/v1
    models: {{ {", ".join(f"{model}: {model}" for model, to in MODELS.items() if to == name)} }}"""
            for name, port in upstreams.items()
        )
        store = f'\n  redis: {{ addr: "127.0.0.1:{redis}" }}' if redis else ""
        config.write_text(
            f"""server:
  http: {{ addr: "127.0.0.1:{http}" }}
  grpc: {{ addr: "127.0.0.1:{grpc}" }}
  max_in_flight: 4096
data:
  dir: {directory}/data
  database: {{ driver: sqlite }}{store}
auth: {{ mode: keys }}
monitoring:
  prometheus: {{ enabled: true, addr: "127.0.0.1:{metrics}" }}
  log: {{ level: info, format: json }}
providers:{providers}
{more}"""
        )
        self.binary, self.config = binary, config
        command = [str(binary), "serve", "--config", str(config)]
        super().__init__(name, command, core, directory / "log")

    def create_key(self) -> None:
        """Makes the API key that all requests carry."""
        command = [str(self.binary), "keys", "create", "--user", "bench", "--config", str(self.config)]
        made = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        found = re.search(r"lyss_[0-9A-Za-z]+_[0-9A-Za-z]+", made.stdout)
        if made.returncode or not found:
            raise BenchError(f"{' '.join(command)} gave no key:\n{made.stdout}{made.stderr}")
        self.api_key = found[0]
