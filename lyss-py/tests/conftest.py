"""A gateway without an account: the simulated provider, and a provider on a socket that tells what happens to it."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any, Iterator

import lyss
import pytest

USER = [{"role": "user", "content": "hello there"}]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=int, default=1, help="run every test so often")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times = metafunc.config.getoption("times")
    if times > 1:
        metafunc.fixturenames.append("_time")
        metafunc.parametrize("_time", range(times))


def configuration(directory: Path, **members: Any) -> dict[str, Any]:
    return {
        "data": {"dir": str(directory)},
        "providers": {"simulated": {"options": {"directives": True}}},
        **members,
    }


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return configuration(tmp_path)


@pytest.fixture
def gw(config: dict[str, Any]) -> Iterator[lyss.Gateway]:
    with lyss.Gateway(config=config) as gateway:
        yield gateway


class Upstream:
    """A provider on loopback that sends the first chunk of a stream, or nothing, and then waits for its caller to go."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.asked = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            seen = b""
            while b"\r\n\r\n" not in seen:
                piece = connection.recv(65536)
                if not piece:
                    return
                seen += piece
            head, _, body = seen.partition(b"\r\n\r\n")
            if head.startswith(b"GET"):
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
                    b'content-length: 27\r\n\r\n{"object":"list","data":[]}'
                )
                return
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            while len(body) < length:
                body += connection.recv(65536)
            if json.loads(body).get("stream"):
                chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
                chunk["choices"] = [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]
                event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                    b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(event), event)
                )
            self.asked.release()
            try:
                while connection.recv(65536):
                    pass
            except OSError:
                pass
            self.left.release()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.close()


@pytest.fixture
def slow_config(tmp_path: Path, upstream: Upstream) -> dict[str, Any]:
    """A gateway to a provider that never comes to an end; callers that leave end the call there."""
    return {
        "data": {"dir": str(tmp_path)},
        "providers": {"slow": {"kind": "openai", "base_url": upstream.url, "api_key": "k"}},
        "billing": {"on_disconnect": "cancel"},
        "routing": {"max_retries": 0},
    }
