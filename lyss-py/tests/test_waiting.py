"""What holds while a call waits: others run, Ctrl-C works, and what is given up ends at the provider."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from typing import Any, Callable

import lyss
import pytest

from conftest import USER, Upstream


@pytest.fixture
def interrupted(upstream: Upstream) -> Callable[[Callable[[], Any]], float]:
    """Runs a call that Ctrl-C ends; how long that took, in seconds."""

    def run(call: Callable[[], Any]) -> float:
        sent: list[float] = []

        def send() -> None:
            assert upstream.asked.acquire(timeout=10)
            time.sleep(0.1)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                call()
            return time.monotonic() - sent[0]
        finally:
            thread.join()

    return run


def test_ctrl_c_ends_a_call(
    slow_config: dict[str, Any], upstream: Upstream, interrupted: Callable[..., float]
) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        took = interrupted(lambda: gw.chat.completions.create(model="slow/m", messages=USER))
        assert took < 0.2
        assert upstream.left.acquire(timeout=1)


def test_ctrl_c_ends_a_stream(
    slow_config: dict[str, Any], upstream: Upstream, interrupted: Callable[..., float]
) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        stream = gw.chat.completions.create(model="slow/m", messages=USER, stream=True)
        assert next(stream).choices[0].delta.content == "a"
        took = interrupted(lambda: next(stream))
        assert took < 0.2
        assert upstream.left.acquire(timeout=1)


def test_a_closed_stream_ends_upstream(slow_config: dict[str, Any], upstream: Upstream) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        with gw.chat.completions.create(model="slow/m", messages=USER, stream=True) as stream:
            next(stream)
        assert upstream.left.acquire(timeout=1)
        with pytest.raises(StopIteration):
            next(stream)


def test_a_stream_is_closed_from_another_thread(
    slow_config: dict[str, Any], upstream: Upstream
) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        stream = gw.chat.completions.create(model="slow/m", messages=USER, stream=True)
        next(stream)
        threading.Timer(0.2, stream.close).start()
        with pytest.raises(StopIteration):
            next(stream)
        assert upstream.left.acquire(timeout=1)


def test_a_forgotten_stream_ends_upstream(slow_config: dict[str, Any], upstream: Upstream) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        stream = gw.chat.completions.create(model="slow/m", messages=USER, stream=True)
        next(stream)
        del stream
        gc.collect()
        assert upstream.left.acquire(timeout=1)


def test_timeouts(slow_config: dict[str, Any], upstream: Upstream) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        start = time.monotonic()
        with pytest.raises(lyss.APITimeoutError, match="0.2 s"):
            gw.chat.completions.create(model="slow/m", messages=USER, timeout=0.2)
        assert 0.2 <= time.monotonic() - start < 1
        assert upstream.left.acquire(timeout=1)
        stream = gw.with_options(timeout=0.2).chat.completions.create(
            model="slow/m", messages=USER, stream=True
        )
        next(stream)
        with pytest.raises(lyss.APITimeoutError):
            next(stream)
        assert upstream.left.acquire(timeout=1)


def test_others_run_while_a_call_waits(config: dict[str, Any]) -> None:
    config["providers"]["simulated"]["options"]["latency_ms"] = 500
    with lyss.Gateway(config=config) as gw:
        gaps: list[float] = []
        over = threading.Event()

        def run() -> None:
            last = time.monotonic()
            while not over.wait(0.001):
                now = time.monotonic()
                gaps.append(now - last)
                last = now

        thread = threading.Thread(target=run)
        thread.start()
        gw.chat.completions.create(model="simulated/echo", messages=USER)
        over.set()
        thread.join()
        assert len(gaps) > 50, "the interpreter was free"


def test_many_threads(config: dict[str, Any]) -> None:
    with lyss.Gateway(config=config) as gw:
        wrong: list[object] = []

        def run(number: int) -> None:
            for turn in range(10):
                text = f"{number} {turn}"
                messages = [{"role": "user", "content": text}]
                if turn % 2:
                    chunks = gw.chat.completions.create(
                        model="simulated/echo", messages=messages, stream=True
                    )
                    got = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
                else:
                    answer = gw.chat.completions.create(model="simulated/echo", messages=messages)
                    got = answer.choices[0].message.content or ""
                if got != text:
                    wrong.append((text, got))

        threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_gateway_is_closed_with_a_stream_open(config: dict[str, Any]) -> None:
    openai = pytest.importorskip("openai")
    gw = lyss.Gateway(config=config)
    stream = gw.chat.completions.create(model="simulated/echo", messages=USER, stream=True)
    client = openai.OpenAI(api_key="-", base_url="http://lyss/v1", http_client=gw.httpx_client())
    other = client.chat.completions.create(model="simulated/echo", messages=USER, stream=True)
    next(stream), next(other)
    start = time.monotonic()
    gw.close()
    assert time.monotonic() - start < 5
    for left in (stream, other):
        # Not as if the answer were complete.
        with pytest.raises(lyss.GatewayClosedError):
            list(left)


def test_a_gateway_is_closed_while_a_stream_is_read(config: dict[str, Any]) -> None:
    config["providers"]["simulated"]["options"]["tokens_per_second"] = 10
    gw = lyss.Gateway(config=config)
    stream = gw.chat.completions.create(
        model="simulated/echo", messages=[{"role": "user", "content": "a b c d e"}], stream=True
    )
    threading.Timer(0.25, gw.close).start()
    assert len(list(stream)) == 7
