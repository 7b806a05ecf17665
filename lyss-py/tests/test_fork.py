"""`os.fork()` after use: both processes go on."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from typing import Any, Callable

import lyss
import pytest

from conftest import USER, Upstream

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    # Python 3.12 and later warn that there are threads; that is what is tested.
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


def in_child(work: Callable[[], Any], *, within: float = 20) -> None:
    """Forks, and fails unless the child does the work in time."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    deadline = time.monotonic() + within
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.005)


def chat(gw: lyss.Gateway, model: str = "simulated/echo") -> None:
    answer = gw.chat.completions.create(model=model, messages=USER)
    assert answer.choices[0].message.content == "hello there"


def every_request_is_logged(gw: lyss.Gateway, config: dict[str, Any], expected: int) -> None:
    """What children have left in their spools is written by the next gateway."""
    gw.close()
    with lyss.Gateway(config=config) as next_one:
        requests_logged(next_one, expected)


def requests_logged(gw: lyss.Gateway, expected: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        logged = sum(total.requests for total in gw.usage())
        if logged == expected:
            return
        assert logged < expected and time.monotonic() < deadline, f"{logged} of {expected}"
        time.sleep(0.1)


def test_both_go_on_and_every_request_is_logged(gw: lyss.Gateway) -> None:
    chat(gw)

    def work() -> None:
        for _ in range(5):
            chat(gw)
        assert list(gw.chat.completions.create(model="simulated/echo", messages=USER, stream=True))
        gw.close()

    for _ in range(3):
        in_child(work)
        chat(gw)
    requests_logged(gw, 1 + 3 * (6 + 1))


def test_a_child_that_ends_without_closing_loses_no_row(
    gw: lyss.Gateway, config: dict[str, Any]
) -> None:
    chat(gw)
    in_child(lambda: chat(gw))
    chat(gw)
    every_request_is_logged(gw, config, 3)


def test_a_child_outlives_its_parent_s_gateway(gw: lyss.Gateway, config: dict[str, Any]) -> None:
    """SQLite's files are in use by the child alone then: it must not take its parent's locks for its own."""
    chat(gw)
    time.sleep(0.3)
    (begun, begin), (told, tell) = os.pipe(), os.pipe()

    def work() -> None:
        chat(gw)
        os.write(tell, b"x")
        os.read(begun, 1)
        for _ in range(5):
            chat(gw)
        gw.close()

    child = threading.Thread(target=in_child, args=(work,))
    child.start()
    os.read(told, 1)
    time.sleep(0.3)
    gw.close()
    with lyss.Gateway(config=config) as other:
        requests_logged(other, 2)
        os.write(begin, b"x")
        child.join()
        requests_logged(other, 7)


def test_ids_differ(gw: lyss.Gateway) -> None:
    """Random numbers are not those of the parent."""
    read, write = os.pipe()

    def id_of() -> bytes:
        answer = gw.chat.completions.create(model="simulated/echo", messages=USER, session_id="new")
        assert answer.meta.session_id is not None
        return answer.meta.session_id.encode()

    id_of()
    in_child(lambda: os.write(write, id_of()))
    assert os.read(read, 36) != id_of()


def test_multiprocessing(gw: lyss.Gateway) -> None:
    chat(gw)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=chat, args=(gw,)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
        assert child.exitcode == 0
    requests_logged(gw, 5)


def test_a_child_of_a_child(gw: lyss.Gateway) -> None:
    chat(gw)

    def work() -> None:
        chat(gw)
        in_child(lambda: chat(gw))
        chat(gw)

    in_child(work)


def test_providers_are_registered_in_the_child(gw: lyss.Gateway) -> None:
    class Own:
        async def chat(self, request: dict[str, Any]) -> str:
            return "hello there"

    gw.register_provider("own", Own(), models=["mine"])
    chat(gw, "mine")
    in_child(lambda: chat(gw, "mine"))
    chat(gw, "mine")


def test_a_stream_from_before_the_fork(slow_config: dict[str, Any], upstream: Upstream) -> None:
    with lyss.Gateway(config=slow_config) as gw:
        stream = gw.chat.completions.create(model="slow/m", messages=USER, stream=True)
        next(stream)

        def work() -> None:
            with pytest.raises(lyss.LyssForkError):
                next(stream)
            stream.close()
            fresh = gw.chat.completions.create(model="slow/m", messages=USER, stream=True)
            assert next(fresh).choices[0].delta.content == "a"

        in_child(work)
        assert not stream._native.done
        stream.close()


def test_asyncio_in_the_child(config: dict[str, Any]) -> None:
    gw = lyss.AsyncGateway(config=config)

    async def ask() -> None:
        answer = await gw.chat.completions.create(model="simulated/echo", messages=USER)
        assert answer.choices[0].message.content == "hello there"

    asyncio.run(ask())
    in_child(lambda: asyncio.run(ask()))
    asyncio.run(ask())
    asyncio.run(gw.close())


def test_forks_while_calls_run(gw: lyss.Gateway, config: dict[str, Any]) -> None:
    stop = threading.Event()
    made = [0]

    def call() -> None:
        while not stop.is_set():
            chat(gw)
            made[0] += 1

    thread = threading.Thread(target=call)
    thread.start()
    try:
        for _ in range(5):
            in_child(lambda: chat(gw))
    finally:
        stop.set()
        thread.join()
    every_request_is_logged(gw, config, made[0] + 5)
