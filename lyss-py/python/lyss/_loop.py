"""How a running asyncio loop waits for the native part: without threads, and without that part waiting for the interpreter."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from typing import Any, Callable, Optional

from ._lyss import Call, Core, Port, Reply, Stream
from ._request import Arguments

_tokens = itertools.count(1)
_ports: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopPort]" = weakref.WeakKeyDictionary()


class LoopPort:
    """What a loop waits for, by token."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.native = Port()
        self._waiting: "dict[int, asyncio.Future[None]]" = {}
        loop.add_reader(self.native.fileno(), self._drain)

    def _drain(self) -> None:
        for token in self.native.drain():
            waiter = self._waiting.pop(token, None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def expect(self, loop: asyncio.AbstractEventLoop, token: int) -> "asyncio.Future[None]":
        waiter = self._waiting[token] = loop.create_future()
        return waiter

    def forget(self, token: int) -> None:
        self._waiting.pop(token, None)


def _port(loop: asyncio.AbstractEventLoop) -> LoopPort:
    port = _ports.get(loop)
    if port is None:
        port = _ports[loop] = LoopPort(loop)
    return port


def forget_loops() -> None:
    """For a forked child: its loops are others, and the sockets are the parent's."""
    _ports.clear()


async def _finished(start: Callable[[Port, int], Optional[Call]]) -> Any:
    loop = asyncio.get_running_loop()
    port = _port(loop)
    token = next(_tokens)
    waiter = port.expect(loop, token)
    call = None
    try:
        call = start(port.native, token)
        if call is None:
            return None
        await waiter
        return call.take()
    finally:
        port.forget(token)
        if call is not None:
            # Nothing to do where it has ended.
            call.cancel()


async def call(core: Core, arguments: Arguments) -> Reply:
    """Makes a call. Cancelling the task gives it up."""
    reply: Reply = await _finished(lambda port, token: core.start(port, token, *arguments))
    return reply


async def close(core: Core, grace: float) -> None:
    """Ends a gateway."""
    await _finished(lambda port, token: core.start_close(port, token, grace))


async def next_event(stream: Stream, timeout: Optional[float], raw: bool = False) -> Optional[bytes]:
    """The next event of a stream; `None` at the end. Being cancelled leaves the stream as it is."""
    loop = asyncio.get_running_loop()
    port = _port(loop)
    token = next(_tokens)
    deadline = None if timeout is None else loop.time() + timeout
    while True:
        event = stream.poll(port.native, token, raw)
        if event is not False:
            return event
        waiter = port.expect(loop, token)
        alarm = None
        if deadline is not None:
            alarm = loop.call_at(deadline, _expire, waiter, timeout)
        try:
            await waiter
        finally:
            port.forget(token)
            if alarm is not None:
                alarm.cancel()


def _expire(waiter: "asyncio.Future[None]", timeout: Optional[float]) -> None:
    from ._errors import APITimeoutError

    if not waiter.done():
        waiter.set_exception(APITimeoutError(f"no event within {timeout} s (`timeout`)"))
