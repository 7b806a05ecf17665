"""The two kinds of gateway: one that waits, and one for asyncio."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any, Iterable, List, Mapping, Optional, Type, TypeVar, Union

from . import types
from ._fork import cut_unread, remember
from ._lyss import Core
from ._model import Model
from ._pages import AsyncPage, AsyncPager, Page
from ._request import (
    UNSET,
    Defaults,
    Response,
    Unset,
    arguments,
    checked,
    opened,
    raw_arguments,
    result,
)
from ._resources import Admin, Chat, Embeddings, Models, Requests, Sessions, Tokens
from ._resources_async import (
    AsyncAdmin,
    AsyncChat,
    AsyncEmbeddings,
    AsyncModels,
    AsyncRequests,
    AsyncSessions,
    AsyncTokens,
)
from ._stream import AsyncStream, Stream

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self, Unpack

T = TypeVar("T", bound=Model)

Config = Union[str, "os.PathLike[str]", Mapping[str, Any], None]

# How long `close` waits for running calls.
GRACE = 30.0


class _Gateway:
    """What both kinds share."""

    _core: Core
    _defaults: Defaults

    def __init__(
        self,
        config: Config = None,
        *,
        data_dir: Union[str, "os.PathLike[str]", None] = None,
        session_store: Optional[types.SessionStore] = None,
        load_balancers: Optional[Mapping[str, Any]] = None,
        timeout: Optional[float] = None,
    ) -> None:
        """Opens a gateway in this process. It lives until `close()`, or until nobody refers to it or its streams.

        Args:
            config: the path of a configuration file (its changes come into force while the gateway lives), or the
                configuration as a dict. Without one: every provider whose key is in the environment, as
                `OPENAI_API_KEY`, and `simulated`; SQLite in the platform's data directory.
            data_dir: where the database is kept, for a gateway without a configuration.
            session_store: a store of your own for sessions.
            load_balancers: strategies of your own by name, for `routing.load_balancer`: functions that are given the
                number of targets and return a `lyss.types.Balancer`.
            timeout: seconds until a call raises `APITimeoutError`, unless it says otherwise. Default: no limit but the
                gateway's own.

        Raises:
            ConfigError: the configuration is wrong; the message has every error with its place.
        """
        self._core = opened(config, data_dir, session_store, load_balancers)
        self._defaults = Defaults(timeout=timeout)
        remember(self._core)

    @classmethod
    def _over(cls, core: Core, defaults: Defaults) -> Self:
        gateway = cls.__new__(cls)
        gateway._core = core
        gateway._defaults = defaults
        return gateway

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        api_key: Optional[str] = None,
        timeout: Optional[float] = None,
        connect_timeout: float = 5.0,
        ca_file: Union[str, "os.PathLike[str]", None] = None,
    ) -> Self:
        """A gateway that calls a Lyss service: the same object, the same behaviour.

        Args:
            url: where the service is, such as `http://localhost:8000`, with or without `/v1`.
            api_key: the key to call it with.
            timeout: seconds until a call raises `APITimeoutError`, unless it says otherwise.
            connect_timeout: seconds to reach it.
            ca_file: a PEM file of certificate authorities to trust besides the usual ones.
        """
        from ._fork import installed

        installed()
        authorities = None if ca_file is None else os.fspath(ca_file)
        core = Core.connect(url, api_key, connect_timeout, authorities)
        remember(core)
        return cls._over(core, Defaults(timeout=timeout))

    def with_options(
        self,
        *,
        api_key: Union[str, None, Unset] = UNSET,
        user_id: Union[str, None, Unset] = UNSET,
        timeout: Union[float, None, Unset] = UNSET,
        extra_headers: Optional[Mapping[str, str]] = None,
    ) -> Self:
        """The same gateway with other defaults for its calls.

        Args:
            api_key: make them as the holder of this key, with its limits and budgets; `""`: as somebody without a key;
                `None`: as the program itself.
            user_id: whom they are made for.
            timeout: seconds until they raise `APITimeoutError`; `None` for no limit.
            extra_headers: headers that all of them have.
        """
        return self._over(
            self._core, self._defaults.with_(api_key, user_id, timeout, extra_headers)
        )

    def register_provider(
        self, id: str, provider: types.Provider, *, models: Iterable[str] = ()
    ) -> None:
        """Adds a provider of your own, or replaces the one of this id: the model `id/name` goes to it, and the names in
        `models` without the prefix, where no rule says otherwise. In a forked child it is registered as well."""
        self._core.register_provider(id, provider, list(models))

    def metrics(self) -> str:
        """The engine's metrics as OpenMetrics text."""
        return self._core.metrics()

    def httpx_client(self, **options: Any) -> httpx.Client:
        """An `httpx.Client` whose requests go to this gateway without a socket, for SDKs that take one:
        `openai.OpenAI(api_key="-", base_url="http://lyss/v1", http_client=gateway.httpx_client())`. `options` are those of
        `httpx.Client`. Closing it does not close the gateway."""
        from ._httpx import client

        return client(self, **options)

    def async_httpx_client(self, **options: Any) -> httpx.AsyncClient:
        """As `httpx_client`, for `openai.AsyncOpenAI` and others that use asyncio."""
        from ._httpx import async_client

        return async_client(self, **options)

    @property
    def is_closed(self) -> bool:
        """Whether the gateway was closed."""
        return self._core.closed

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled; open it in the process that uses it, results can be sent"
        )

    def __repr__(self) -> str:
        return f"<lyss.{type(self).__name__}{' (closed)' if self.is_closed else ''}>"


class Client(_Gateway):
    """How the calls of `Gateway` are made."""

    def _send(
        self,
        cls: Type[T],
        method: str,
        path: str,
        params: Mapping[str, Any],
        *,
        user_in_body: bool = False,
    ) -> T:
        call = arguments(self._defaults, method, path, params, user_in_body=user_in_body)
        return result(cls, self._core.call(*call))

    def _stream(self, cls: Type[T], path: str, params: Mapping[str, Any]) -> Stream[T]:
        call = arguments(self._defaults, "POST", path, params, user_in_body=True)
        return Stream(self, checked(self._core.call(*call)), cls, call[5])

    def _list(self, cls: Type[T], path: str, params: Mapping[str, Any]) -> Page[T]:
        reply = self._core.call(*arguments(self._defaults, "GET", path, params))
        return Page(reply, cls, lambda cursor: self._list(cls, path, {**params, "cursor": cursor}))


class Gateway(Client):
    """A gateway whose calls wait for their answers.

    It may be used from any number of threads. The interpreter is free for others while a call waits, and Ctrl-C ends it.
    """

    @property
    def chat(self) -> Chat:
        """`chat.completions.create`."""
        return Chat(self)

    @property
    def embeddings(self) -> Embeddings:
        """`embeddings.create`."""
        return Embeddings(self)

    @property
    def models(self) -> Models:
        """The models that the caller may use."""
        return Models(self)

    @property
    def sessions(self) -> Sessions:
        """Conversations that the gateway keeps."""
        return Sessions(self)

    @property
    def tokens(self) -> Tokens:
        """`tokens.count`."""
        return Tokens(self)

    @property
    def requests(self) -> Requests:
        """The request log."""
        return Requests(self)

    @property
    def admin(self) -> Admin:
        """What the program itself, and admin keys, may change."""
        return Admin(self)

    def usage(
        self,
        by: Union[str, Iterable[str]] = (),
        *,
        since: Any = None,
        until: Any = None,
        user_id: Optional[str] = None,
        **options: Unpack[types.CallOptions],
    ) -> List[types.UsageTotal]:
        """Totals of requests, tokens and cost; `by`: any of `day`, `model`, `user`, `key`, `provider`. `since` and `until`:
        dates, times or their texts (RFC 3339)."""
        params = {**_usage(by, since, until, user_id), **options}
        return self._list(types.UsageTotal, "/v1/usage", params).data

    def health(self, **options: Unpack[types.CallOptions]) -> types.Health:
        """What the gateway depends on, and whether it answers."""
        return self._send(types.Health, "GET", "/health", options)

    def ready(self, **options: Unpack[types.CallOptions]) -> types.Ready:
        """Whether the gateway takes calls, and what is away. That it does not is no error."""
        response = self.request("GET", "/ready", timeout=options.get("timeout", UNSET))
        return types.Ready(response.content, response.meta)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Optional[types.Body] = None,
        query: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Union[float, None, Unset] = UNSET,
    ) -> Response:
        """Makes a call of the HTTP API as it is written, such as `request("GET", "/v1/models")`. An error status is an answer
        like any other."""
        call = raw_arguments(self._defaults, method, path, body, query, headers, timeout)
        return Response(self._core.call(*call))

    def close(self, *, grace: float = GRACE) -> None:
        """Ends the gateway: waits for running calls, at most `grace` seconds, and writes what is still to be written. A
        stream that nobody reads at that moment ends at once; so do the objects that `with_options` has given. Closing twice is no error."""
        cut_unread(self._core)
        self._core.close(grace)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()


class AsyncClient(_Gateway):
    """How the calls of `AsyncGateway` are made."""

    async def _send(
        self,
        cls: Type[T],
        method: str,
        path: str,
        params: Mapping[str, Any],
        *,
        user_in_body: bool = False,
    ) -> T:
        from ._loop import call

        made = arguments(self._defaults, method, path, params, user_in_body=user_in_body)
        return result(cls, await call(self._core, made))

    async def _stream(self, cls: Type[T], path: str, params: Mapping[str, Any]) -> AsyncStream[T]:
        from ._loop import call

        made = arguments(self._defaults, "POST", path, params, user_in_body=True)
        return AsyncStream(self, checked(await call(self._core, made)), cls, made[5])

    def _list(self, cls: Type[T], path: str, params: Mapping[str, Any]) -> AsyncPager[T]:
        async def page(cursor: Optional[str] = None) -> AsyncPage[T]:
            from ._loop import call

            members = params if cursor is None else {**params, "cursor": cursor}
            reply = await call(self._core, arguments(self._defaults, "GET", path, members))
            return AsyncPage(reply, cls, page)

        return AsyncPager(page)


class AsyncGateway(AsyncClient):
    """A gateway for asyncio. It may be used from any number of loops, and `asyncio.run` any number of times.

    Cancelling a task gives its call up. Opening waits for the database on the calling thread; `await AsyncGateway.open(...)`
    does so on another.
    """

    @classmethod
    async def open(cls, config: Config = None, **options: Any) -> Self:
        """As the constructor, without holding the loop up."""
        import asyncio

        return await asyncio.to_thread(cls, config, **options)

    @property
    def chat(self) -> AsyncChat:
        """`chat.completions.create`."""
        return AsyncChat(self)

    @property
    def embeddings(self) -> AsyncEmbeddings:
        """`embeddings.create`."""
        return AsyncEmbeddings(self)

    @property
    def models(self) -> AsyncModels:
        """The models that the caller may use."""
        return AsyncModels(self)

    @property
    def sessions(self) -> AsyncSessions:
        """Conversations that the gateway keeps."""
        return AsyncSessions(self)

    @property
    def tokens(self) -> AsyncTokens:
        """`tokens.count`."""
        return AsyncTokens(self)

    @property
    def requests(self) -> AsyncRequests:
        """The request log."""
        return AsyncRequests(self)

    @property
    def admin(self) -> AsyncAdmin:
        """What the program itself, and admin keys, may change."""
        return AsyncAdmin(self)

    async def usage(
        self,
        by: Union[str, Iterable[str]] = (),
        *,
        since: Any = None,
        until: Any = None,
        user_id: Optional[str] = None,
        **options: Unpack[types.CallOptions],
    ) -> List[types.UsageTotal]:
        """Totals of requests, tokens and cost; `by`: any of `day`, `model`, `user`, `key`, `provider`. `since` and `until`:
        dates, times or their texts (RFC 3339)."""
        params = {**_usage(by, since, until, user_id), **options}
        page = await self._list(types.UsageTotal, "/v1/usage", params)
        return page.data

    async def health(self, **options: Unpack[types.CallOptions]) -> types.Health:
        """What the gateway depends on, and whether it answers."""
        return await self._send(types.Health, "GET", "/health", options)

    async def ready(self, **options: Unpack[types.CallOptions]) -> types.Ready:
        """Whether the gateway takes calls, and what is away. That it does not is no error."""
        response = await self.request("GET", "/ready", timeout=options.get("timeout", UNSET))
        return types.Ready(response.content, response.meta)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Optional[types.Body] = None,
        query: Optional[Mapping[str, Any]] = None,
        headers: Optional[Mapping[str, str]] = None,
        timeout: Union[float, None, Unset] = UNSET,
    ) -> Response:
        """Makes a call of the HTTP API as it is written, such as `request("GET", "/v1/models")`. An error status is an answer
        like any other."""
        from ._loop import call

        made = raw_arguments(self._defaults, method, path, body, query, headers, timeout)
        return Response(await call(self._core, made))

    async def close(self, *, grace: float = GRACE) -> None:
        """Ends the gateway: waits for running calls, at most `grace` seconds, and writes what is still to be written. A
        stream that nobody reads at that moment ends at once; so do the objects that `with_options` has given. Closing twice is no error."""
        from ._loop import close

        cut_unread(self._core)
        await close(self._core, grace)

    aclose = close

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()


def _usage(
    by: Union[str, Iterable[str]], since: Any, until: Any, user_id: Optional[str]
) -> "dict[str, Any]":
    groups = by if isinstance(by, str) else ",".join(by)
    return {"by": groups or None, "from": since, "to": until, "user_id": user_id}


def connect(
    url: str,
    *,
    api_key: Optional[str] = None,
    timeout: Optional[float] = None,
    connect_timeout: float = 5.0,
    ca_file: Union[str, "os.PathLike[str]", None] = None,
) -> Gateway:
    """A `Gateway` that calls a Lyss service (see `Gateway.connect`); `AsyncGateway.connect` makes one for asyncio."""
    return Gateway.connect(
        url, api_key=api_key, timeout=timeout, connect_timeout=connect_timeout, ca_file=ca_file
    )
