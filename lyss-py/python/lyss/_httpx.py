"""httpx clients whose requests go to a gateway in this process: no socket, no HTTP parsing, no serialisation but the SDK's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, AsyncIterator, Iterator, Optional

try:
    import httpx
except ModuleNotFoundError:
    raise ModuleNotFoundError("this needs httpx; install it with `pip install lyss[httpx]`") from None

from ._errors import APITimeoutError
from ._lyss import Reply
from ._lyss import Stream as NativeStream
from ._stream import Source

if TYPE_CHECKING:
    from ._client import _Gateway

# Said by the connection, which there is none of, or of the official SDK's own key, which is not looked at.
_LEFT_OUT = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "authorization"}
)


def client(gateway: _Gateway, **options: Any) -> httpx.Client:
    """A client over a gateway."""
    return httpx.Client(transport=_Transport(gateway), **_defaults(options))


def async_client(gateway: _Gateway, **options: Any) -> httpx.AsyncClient:
    """An asyncio client over a gateway."""
    return httpx.AsyncClient(transport=_AsyncTransport(gateway), **_defaults(options))


def _defaults(options: "dict[str, Any]") -> "dict[str, Any]":
    # As the official SDK's own clients.
    return {"timeout": httpx.Timeout(600.0, connect=5.0), "follow_redirects": True, **options}


def _arguments(gateway: _Gateway, request: httpx.Request, body: bytes) -> Any:
    defaults = gateway._defaults
    headers = [
        (name, value) for name, value in request.headers.items() if name.lower() not in _LEFT_OUT
    ]
    if defaults.extra_headers:
        headers.extend(defaults.extra_headers.items())
    path = request.url.raw_path.decode("ascii")
    if defaults.user_id is not None and "user_id=" not in path:
        from ._request import encode_query

        query = encode_query({"user_id": defaults.user_id})
        path += query if "?" not in path else "&" + query[1:]
    return (
        request.method,
        path,
        headers,
        body or None,
        defaults.api_key,
        _timeout(request),
    )


def _timeout(request: httpx.Request) -> Optional[float]:
    timeout: Optional[float] = request.extensions.get("timeout", {}).get("read")
    return timeout


def _response(reply: Reply, stream: Any) -> httpx.Response:
    return httpx.Response(
        reply.status,
        headers=reply.headers(),
        **({"stream": stream} if stream is not None else {"content": reply.body or b""}),
    )


class _Transport(httpx.BaseTransport):
    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        arguments = _arguments(self._gateway, request, request.read())
        try:
            reply = self._gateway._core.call(*arguments)
        except APITimeoutError as error:
            raise httpx.ReadTimeout(str(error), request=request) from error
        stream = reply.stream
        return _response(reply, stream and _Events(stream, request, self._gateway))


class _Events(Source, httpx.SyncByteStream):
    def __init__(self, native: NativeStream, request: httpx.Request, owner: _Gateway) -> None:
        super().__init__(owner._core, native)
        self._request = request
        self._owner = owner

    def __iter__(self) -> Iterator[bytes]:
        timeout = _timeout(self._request)
        while True:
            try:
                event = self._next(timeout, True)
            except APITimeoutError as error:
                raise httpx.ReadTimeout(str(error), request=self._request) from error
            if event is None:
                return
            yield event

    def close(self) -> None:
        self._native.close()


class _AsyncTransport(httpx.AsyncBaseTransport):
    def __init__(self, gateway: _Gateway) -> None:
        self._gateway = gateway

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        from ._loop import call

        arguments = _arguments(self._gateway, request, await request.aread())
        try:
            reply = await call(self._gateway._core, arguments)
        except APITimeoutError as error:
            raise httpx.ReadTimeout(str(error), request=request) from error
        stream = reply.stream
        return _response(reply, stream and _AsyncEvents(stream, request, self._gateway))


class _AsyncEvents(Source, httpx.AsyncByteStream):
    def __init__(self, native: NativeStream, request: httpx.Request, owner: _Gateway) -> None:
        super().__init__(owner._core, native)
        self._request = request
        self._owner = owner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        timeout = _timeout(self._request)
        while True:
            try:
                event = await self._anext(timeout, True)
            except APITimeoutError as error:
                raise httpx.ReadTimeout(str(error), request=self._request) from error
            if event is None:
                return
            yield event

    async def aclose(self) -> None:
        self._native.close()
