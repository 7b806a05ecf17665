"""From arguments to requests, and from answers to results."""

from __future__ import annotations

import json
import os
from typing import Any, AsyncIterator, Callable, Iterator, Mapping, Optional, Tuple, TypeVar, Union

from . import _errors
from ._lyss import Core, Reply
from ._model import Model, ResponseMeta

T = TypeVar("T", bound=Model)

class Unset:
    """Stands for what was not said, where `None` says something."""

    def __repr__(self) -> str:
        return "unset"


UNSET = Unset()

Arguments = Tuple[str, str, "list[tuple[str, str]]", Optional[bytes], Optional[str], Optional[float]]
"""Those of `Core.call`: method, path, headers, body, credential, timeout."""


class Defaults:
    """What holds for every call of a gateway object; see `with_options`."""

    __slots__ = ("api_key", "extra_headers", "timeout", "user_id")

    def __init__(
        self,
        api_key: Optional[str] = None,
        user_id: Optional[str] = None,
        timeout: Optional[float] = None,
        extra_headers: Optional[Mapping[str, str]] = None,
    ) -> None:
        self.api_key = api_key
        self.user_id = user_id
        self.timeout = timeout
        self.extra_headers = extra_headers

    def with_(
        self,
        api_key: Union[Optional[str], Unset],
        user_id: Union[Optional[str], Unset],
        timeout: Union[Optional[float], Unset],
        extra_headers: Optional[Mapping[str, str]],
    ) -> Defaults:
        """These, with others in the place of some."""
        return Defaults(
            self.api_key if isinstance(api_key, Unset) else api_key,
            self.user_id if isinstance(user_id, Unset) else user_id,
            self.timeout if isinstance(timeout, Unset) else timeout,
            {**(self.extra_headers or {}), **(extra_headers or {})},
        )


def arguments(
    defaults: Defaults,
    method: str,
    path: str,
    params: Mapping[str, Any],
    *,
    user_in_body: bool = False,
) -> Arguments:
    """A call's arguments: `params` are the members of its body or, where the method has none, of its query; and options."""
    members = dict(params)
    timeout = members.pop("timeout", defaults.timeout)
    headers = list(defaults.extra_headers.items()) if defaults.extra_headers else []
    extra_headers = members.pop("extra_headers", None)
    if extra_headers:
        headers.extend(extra_headers.items())
    idempotency_key = members.pop("idempotency_key", None)
    if idempotency_key is not None:
        headers.append(("idempotency-key", idempotency_key))
    query = members.pop("extra_query", None)
    extra_body = members.pop("extra_body", None)
    body = None
    if method == "GET" or method == "DELETE":
        query = {**members, **(query or {})}
    else:
        if extra_body:
            members.update(extra_body)
        if user_in_body and defaults.user_id is not None and members.get("user_id") is None:
            members["user_id"] = defaults.user_id
        body = encode(members)
    if defaults.user_id is not None and not user_in_body and not path.startswith("/v1/admin"):
        query = {**(query or {})}
        if query.get("user_id") is None:
            query["user_id"] = defaults.user_id
    if query:
        path += encode_query(query)
    return method, path, headers, body, defaults.api_key, timeout


def raw_arguments(
    defaults: Defaults,
    method: str,
    path: str,
    body: Any,
    query: Optional[Mapping[str, Any]],
    headers: Optional[Mapping[str, str]],
    timeout: Union[Optional[float], Unset],
) -> Arguments:
    """The arguments of a call that is made as it is written."""
    if not path.startswith("/"):
        raise ValueError(f"the path must begin with `/`, as in `/v1/models`: {path!r}")
    all_headers = [*(defaults.extra_headers or {}).items(), *(headers or {}).items()]
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    elif body is not None and not isinstance(body, bytes):
        body = encode(body)
    if query:
        path += encode_query(query)
    chosen = defaults.timeout if isinstance(timeout, Unset) else timeout
    return method.upper(), path, all_headers, body, defaults.api_key, chosen


def encode(value: Any) -> bytes:
    """A value as JSON; objects with `model_dump()` are written as what it gives, iterables as arrays."""
    try:
        return _encoder.encode(value).encode()
    except UnicodeEncodeError:
        # Half a surrogate pair; the gateway says what is wrong.
        return json.dumps(value, separators=(",", ":"), default=_dump).encode()


def _dump(value: Any) -> Any:
    dump = getattr(value, "model_dump", None) or getattr(value, "to_dict", None)
    if dump is not None:
        if isinstance(value, Model):
            return value.to_dict()
        try:
            # Of pydantic's models what was not set is left out, as the official SDK does.
            return dump(exclude_unset=True, mode="json")
        except TypeError:
            return dump()
    if hasattr(value, "tolist"):  # numpy
        return value.tolist()
    if hasattr(value, "__iter__"):
        return list(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent as JSON; send dicts, lists and texts")


# `json.dumps` would make one for each call.
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_dump)


def encode_query(query: Mapping[str, Any]) -> str:
    """A query with its `?`; what is `None` is left out, lists are joined by commas."""
    from urllib.parse import urlencode

    def text(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ",".join(map(str, value))
        if isinstance(value, bool):
            return "true" if value else "false"
        isoformat = getattr(value, "isoformat", None)
        return str(isoformat() if isoformat is not None else value)

    encoded = urlencode({name: text(value) for name, value in query.items() if value is not None})
    return f"?{encoded}" if encoded else ""


def segment(id: Any, name: str = "id") -> str:
    """An id as a part of a path."""
    from urllib.parse import quote

    text = str(id) if id is not None else ""
    if not text:
        raise ValueError(f"`{name}` must not be empty")
    return quote(text, safe="")


def checked(reply: Reply) -> Reply:
    """The answer, unless it is an error."""
    if reply.status >= 400:
        raise _errors.from_response(reply.status, dict(reply.headers()), reply.body or b"")
    return reply


def meta_of(reply: Reply) -> ResponseMeta:
    """What the gateway says about the answer, read when it is asked for."""
    return ResponseMeta(reply.headers)


def result(cls: Callable[[bytes, ResponseMeta], T], reply: Reply) -> T:
    """The answer as a result."""
    checked(reply)
    return cls(reply.body or b"{}", meta_of(reply))


class Response:
    """An answer as it is; see `request`."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._headers: Optional["dict[str, str]"] = None

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        return self._reply.status

    @property
    def headers(self) -> "dict[str, str]":
        """The headers, names in lower case."""
        if self._headers is None:
            self._headers = dict(self._reply.headers())
        return self._headers

    @property
    def meta(self) -> ResponseMeta:
        """What the gateway says about the answer."""
        return ResponseMeta(self.headers)

    @property
    def request_id(self) -> Optional[str]:
        """The gateway's id of the request."""
        return self.headers.get("x-request-id")

    @property
    def content(self) -> bytes:
        """The body; empty for a streamed answer."""
        return self._reply.body or b""

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as a value."""
        return json.loads(self.content)

    def raise_for_status(self) -> None:
        """Raises the exception of an error status."""
        checked(self._reply)

    @property
    def is_stream(self) -> bool:
        """Whether the answer is a stream of events, to be read by `iter_events` or `aiter_events`."""
        return self._reply.stream is not None

    def iter_events(self) -> Iterator[bytes]:
        """The events of a streamed answer as they are on the wire. Leaving it early ends the call."""
        stream = self._reply.stream
        if stream is not None:
            try:
                while (event := stream.next(None, True)) is not None:
                    yield event
            finally:
                stream.close()

    async def aiter_events(self) -> AsyncIterator[bytes]:
        """As `iter_events`, for asyncio."""
        from ._loop import next_event

        stream = self._reply.stream
        if stream is not None:
            try:
                while (event := await next_event(stream, None, True)) is not None:
                    yield event
            finally:
                stream.close()

    def __repr__(self) -> str:
        return f"<Response [{self.status_code}]>"


def opened(
    config: Any,
    data_dir: Any,
    session_store: Any,
    load_balancers: Optional[Mapping[str, Any]],
) -> Core:
    """The native gateway for the arguments of a constructor."""
    from ._fork import installed

    installed()
    directory = None if data_dir is None else os.fspath(data_dir)
    balancers = dict(load_balancers or {})
    if config is None:
        return Core.open("default", "", directory, session_store, balancers)
    if directory is not None:
        raise TypeError("`data_dir` is for a gateway without a configuration; else set `data.dir` in it")
    if isinstance(config, Mapping):
        return Core.open("text", encode(dict(config)).decode(), None, session_store, balancers)
    return Core.open("file", os.fspath(config), None, session_store, balancers)
