"""How the engine calls parts of it that are written in Python: providers and session stores.

The functions here are called from the native part, on threads that may block. What is to be awaited runs on a loop of this
module's own, in a thread: the program's loops may be waiting for this very call.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Mapping, Optional, Tuple

if TYPE_CHECKING:
    import asyncio

    from ._lyss import Answer

# An answer's status, its `retry-after`, its body, and for a stream what gives its events.
Head = Tuple[int, Optional[str], bytes, "Optional[Pieces]"]

_lock = threading.Lock()
_loop: "Optional[asyncio.AbstractEventLoop]" = None


def loop() -> asyncio.AbstractEventLoop:
    """The loop that awaits what methods give."""
    global _loop
    import asyncio

    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="lyss-extend", daemon=True).start()
        return _loop


def forget_loops() -> None:
    """For a forked child, in which the thread does not run."""
    global _loop, _lock
    _loop = None
    _lock = threading.Lock()


def report(what: str, error: BaseException) -> None:
    """Logs an exception with its traceback."""
    import logging

    logging.getLogger("lyss").error(what, exc_info=(type(error), error, error.__traceback__))


def call(answer: Answer, target: Any, method: str, *args: Any) -> None:
    """`target.method(*args)` of a session store."""
    _run(answer, lambda: getattr(target, method)(*args), lambda result: result)


def send(answer: Answer, provider: Any, path: str, body: bytes) -> None:
    """A request to a provider: what an OpenAI-compatible service would be sent. Answers with a `Head`."""
    try:
        if path.endswith("/chat/completions"):
            request = json.loads(body)
            if not request.get("stream"):
                _run(answer, lambda: provider.chat(request), lambda it: _whole(request, it), _refused)
            elif hasattr(provider, "chat_stream"):
                _run(answer, lambda: provider.chat_stream(request), lambda it: it, _refused, request)
            else:
                plain = {k: v for k, v in request.items() if k not in ("stream", "stream_options")}
                _run(
                    answer,
                    lambda: provider.chat(plain),
                    lambda it: iter(_chunks(request, json.loads(_whole(request, it)[2]))),
                    _refused,
                    request,
                )
        elif path.endswith("/embeddings"):
            request = json.loads(body)
            _run(answer, lambda: provider.embeddings(request), lambda it: _vectors(request, it), _refused)
        else:
            ask = getattr(provider, "models", None)
            _run(answer, ask if callable(ask) else lambda: ask or [], _models, _refused)
    except Exception as error:  # a property of the provider may raise
        answer.resolve(_refused(error))


def advance(answer: Answer, pieces: Pieces) -> None:
    """The next event of a stream as bytes; `None` after the last."""
    pieces.advance(answer)


def close(answer: Answer, pieces: Pieces) -> None:
    """Nobody wants more of a stream."""
    pieces.close(answer)


def _run(
    answer: Answer,
    work: Callable[[], Any],
    read: Callable[[Any], Any],
    refused: Optional[Callable[[BaseException], Any]] = None,
    stream: Optional[Mapping[str, Any]] = None,
) -> None:
    """Answers with what `read` makes of the result of `work`, awaited if need be. `refused` makes an answer of an exception;
    `stream` is the request where the result is a stream: its first piece is waited for, so that a refusal has a status."""

    def settle(result: Any) -> None:
        try:
            given = read(result)
            if stream is None:
                answer.resolve(given)
            else:
                Pieces(stream, given).begin(answer)
        except BaseException as error:
            fail(error)

    def fail(error: BaseException) -> None:
        if refused is not None:
            answer.resolve(refused(error))
        else:
            report(f"the session store failed: {type(error).__name__}", error)
            answer.fail(str(getattr(error, "code", "") or _code(error)), type(error).__name__)

    try:
        result = work()
    except BaseException as error:
        fail(error)
        return
    if hasattr(result, "__await__"):
        _await(answer, result, settle, fail)
    else:
        settle(result)


def _code(error: BaseException) -> str:
    from ._errors import ConflictError

    return "session_conflict" if isinstance(error, ConflictError) else ""


def _await(
    answer: Answer,
    awaitable: Any,
    settle: Callable[[Any], None],
    fail: Callable[[BaseException], None],
) -> None:
    import asyncio

    async def awaited() -> Any:
        return await awaitable

    def done(future: Any) -> None:
        if future.cancelled():
            fail(asyncio.CancelledError())
        elif future.exception() is not None:
            fail(future.exception())
        else:
            settle(future.result())

    future = asyncio.run_coroutine_threadsafe(awaited(), loop())
    answer.on_cancel(future.cancel)
    future.add_done_callback(done)


class Pieces:
    """The events of a stream, from an iterator or an async iterator of chunks."""

    def __init__(self, request: Mapping[str, Any], chunks: Any) -> None:
        self._request = request
        self._plain = False
        self._ended = False
        self._closed = False
        self._first: Optional[bytes] = None
        if hasattr(chunks, "__aiter__"):
            self._chunks: Any = chunks.__aiter__()
            self._next: Callable[[], Any] = self._chunks.__anext__
        elif hasattr(chunks, "__iter__") and not isinstance(chunks, (str, bytes, dict)):
            self._chunks = iter(chunks)
            self._next = self._chunks.__next__
        else:
            raise TypeError(
                f"chat_stream() must give an iterator of chunks, sync or async, not a {type(chunks).__name__}"
            )

    def begin(self, answer: Answer) -> None:
        """Answers with the head, once the first event is there."""

        def settle(event: Optional[bytes]) -> None:
            self._first = event
            answer.resolve((200, None, b"", self))

        self._step(answer, settle, lambda error: answer.resolve(_refused(error)))

    def advance(self, answer: Answer) -> None:
        """Answers with the next event."""
        if self._first is not None:
            first, self._first = self._first, None
            answer.resolve(first)
        elif self._ended:
            answer.resolve(None)
        else:
            self._step(answer, answer.resolve, lambda error: answer.resolve(self._broken(error)))

    def close(self, answer: Answer) -> None:
        """Ends the generator."""
        self._closed = True
        end = getattr(self._chunks, "aclose", None) or getattr(self._chunks, "close", None)
        if end is None or self._ended:
            answer.resolve(None)
            return

        def ignore(_: Any) -> None:
            # What is running ends when it has its next piece, and is thrown away then.
            answer.resolve(None)

        try:
            result = end()
        except BaseException as error:
            ignore(error)
            return
        if hasattr(result, "__await__"):
            _await(answer, result, ignore, ignore)
        else:
            answer.resolve(None)

    def _step(
        self,
        answer: Answer,
        settle: Callable[[Optional[bytes]], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        def read(chunk: Any) -> None:
            try:
                event = self._event(chunk)
            except BaseException as error:
                fail(error)
                return
            settle(event)

        def ended(error: BaseException) -> None:
            if isinstance(error, (StopIteration, StopAsyncIteration)):
                self._ended = True
                settle(self._end())
            else:
                self._ended = True
                fail(error)

        try:
            chunk = self._next()
        except BaseException as error:
            ended(error)
            return
        if hasattr(chunk, "__await__"):
            _await(answer, chunk, read, ended)
        else:
            read(chunk)

    def _event(self, chunk: Any) -> bytes:
        if isinstance(chunk, str):
            self._plain = True
            chunk = _chunk(self._request, {"content": chunk}, None)
        return b"data: " + _json(chunk) + b"\n\n"

    def _end(self) -> bytes:
        last = b"data: " + _json(_chunk(self._request, {}, "stop")) + b"\n\n" if self._plain else b""
        return last + b"data: [DONE]\n\n"

    def _broken(self, error: BaseException) -> bytes:
        status, _, body, _ = _refused(error)
        told = json.loads(body)["error"]
        # In a stream the status stands where the code does.
        told["code"] = str(status)
        return b"data: " + _json({"error": told}) + b"\n\n"


def _refused(error: BaseException) -> Head:
    """An exception as the refusal of a service."""
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and 400 <= status < 600:
        pause = getattr(error, "retry_after", None)
        if pause is None:
            # Of exceptions as the `openai` package has them.
            headers = getattr(getattr(error, "response", None), "headers", None) or {}
            pause = headers.get("retry-after")
        told = {
            "message": str(getattr(error, "message", None) or error),
            "type": getattr(error, "type", None),
            "param": getattr(error, "param", None),
            "code": getattr(error, "code", None),
        }
    else:
        # The text of an exception may hold what callers must not see.
        report(f"a provider failed: {type(error).__name__}", error)
        status, pause = 500, None
        told = {"message": type(error).__name__, "type": "server_error", "param": None, "code": None}
    return status, None if pause is None else str(pause), _json({"error": told}), None


def _json(value: Any) -> bytes:
    from ._request import encode

    return encode(value)


def _whole(request: Mapping[str, Any], answer: Any) -> Head:
    if isinstance(answer, str):
        answer = {
            "id": _id(),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.get("model"),
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer},
                    "finish_reason": "stop",
                }
            ],
        }
    return 200, None, _json(answer), None


def _chunk(request: Mapping[str, Any], delta: "dict[str, Any]", finish: Optional[str]) -> Any:
    return {
        "id": _id(),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.get("model"),
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def _chunks(request: Mapping[str, Any], completion: Mapping[str, Any]) -> Any:
    """A complete answer as a stream."""
    head = {
        **{k: v for k, v in completion.items() if k not in ("choices", "usage")},
        "object": "chat.completion.chunk",
    }
    for choice in completion.get("choices", []):
        delta = dict(choice.get("message") or {})
        if delta.get("tool_calls"):
            delta["tool_calls"] = [
                {"index": index, **call} for index, call in enumerate(delta["tool_calls"])
            ]
        index = choice.get("index", 0)
        yield {**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
        finish = choice.get("finish_reason") or "stop"
        yield {**head, "choices": [{"index": index, "delta": {}, "finish_reason": finish}]}
    if completion.get("usage"):
        yield {**head, "choices": [], "usage": completion["usage"]}


def _vectors(request: Mapping[str, Any], answer: Any) -> Head:
    if isinstance(answer, list):
        answer = {
            "object": "list",
            "model": request.get("model"),
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(answer)
            ],
        }
    return 200, None, _json(answer), None


def _models(answer: Any) -> Head:
    if not isinstance(answer, dict):
        data = [{"id": each, "object": "model"} if isinstance(each, str) else each for each in answer]
        answer = {"object": "list", "data": data}
    return 200, None, _json(answer), None


def _id() -> str:
    import uuid

    return f"chatcmpl-{uuid.uuid4().hex}"
