"""Streamed answers as iterators."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Any, AsyncIterator, Generic, Iterator, Optional, Type, TypeVar

from . import _errors
from ._fork import watch
from ._lyss import Core, Reply
from ._lyss import Stream as NativeStream
from ._model import Model, ResponseMeta
from ._request import meta_of

if TYPE_CHECKING:
    from ._client import _Gateway

T = TypeVar("T", bound=Model)

__all__ = ["AsyncStream", "Stream"]


class Source:
    """A native stream that ends with its gateway, unless somebody waits for its next event at that moment."""

    _native: NativeStream

    def __init__(self, core: Core, native: NativeStream) -> None:
        self._native = native
        self._reading = False
        watch(core, self)

    def _cut(self) -> None:
        native = self._native
        if not self._reading and not native.done:
            self._native = _CUT
            native.close()

    def _next(self, timeout: Optional[float], raw: bool = False) -> Optional[bytes]:
        self._reading = True
        try:
            return self._native.next(timeout, raw)
        finally:
            self._reading = False

    async def _anext(self, timeout: Optional[float], raw: bool = False) -> Optional[bytes]:
        from ._loop import next_event

        self._reading = True
        try:
            return await next_event(self._native, timeout, raw)
        finally:
            self._reading = False


class _Events(Source, Generic[T]):
    """What both kinds of stream share."""

    def __init__(self, owner: _Gateway, reply: Reply, cls: Type[T], timeout: Optional[float]) -> None:
        assert reply.stream is not None
        super().__init__(owner._core, reply.stream)
        self._cls = cls
        self._timeout = timeout
        self._meta = meta_of(reply)
        # A gateway that nobody refers to ends, and its streams with it.
        self._owner = owner

    @property
    def meta(self) -> ResponseMeta:
        """What the gateway says about the answer."""
        return self._meta

    @property
    def request_id(self) -> Optional[str]:
        """The gateway's id of the request."""
        return self._meta.request_id

    def _read(self, event: bytes) -> T:
        # A chunk may have a member `error` as well, but none begins with it.
        if event.startswith(b'{"error"'):
            told: Any = json.loads(event).get("error")
            if isinstance(told, dict):
                self._native = _ENDED
                raise _errors.from_event(told, self._meta)
        return self._cls(event, self._meta)

    def _ended(self) -> None:
        if not self._native.done:
            done, self._native = self._native, _ENDED
            done.close()
            raise _errors.incomplete(self._meta)


class _Ended:
    """In the place of a stream that has said how it ended."""

    done = True

    def next(self, *_: Any) -> None:
        return None

    def poll(self, *_: Any) -> None:
        return None

    def close(self) -> None:
        pass


class _Cut:
    """In the place of a stream whose gateway was closed before it was read to its end."""

    done = False

    def next(self, *_: Any) -> None:
        raise _errors.GatewayClosedError("this stream ended with its gateway, which was closed")

    poll = next

    def close(self) -> None:
        pass


_ENDED: Any = _Ended()
_CUT: Any = _Cut()


class Stream(_Events[T]):
    """A streamed answer: an iterator of chunks. Leave it early by `close()` or a `with` block: that ends the call at the
    provider. A stream that nobody refers to any more ends, too."""

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        event = self._next(self._timeout)
        if event is None:
            self._ended()
            raise StopIteration
        return self._read(event)

    def close(self) -> None:
        """Ends the call, unless the answer is complete."""
        self._native.close()
        self._native = _ENDED

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()


class AsyncStream(_Events[T]):
    """A streamed answer: an async iterator of chunks. Leave it early by `close()` or an `async with` block: that ends the
    call at the provider. A stream that nobody refers to any more ends, too."""

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        event = await self._anext(self._timeout)
        if event is None:
            self._ended()
            raise StopAsyncIteration
        return self._read(event)

    async def close(self) -> None:
        """Ends the call, unless the answer is complete."""
        self._native.close()
        self._native = _ENDED

    aclose = close

    async def __aenter__(self) -> AsyncStream[T]:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()
