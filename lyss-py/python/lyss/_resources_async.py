"""The calls of a gateway, for asyncio. `_resources.py` is made from this file by `tools/resources.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable, List, Literal, Mapping, Optional, Union, overload

from . import types
from ._pages import AsyncPager
from ._request import segment
from ._stream import AsyncStream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._client import AsyncClient

__all__ = ["AsyncAdmin", "AsyncChat", "AsyncEmbeddings", "AsyncModels", "AsyncRequests", "AsyncSessions", "AsyncTokens"]


class _AsyncResource:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client


class AsyncCompletions(_AsyncResource):
    """`chat.completions`."""

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Iterable[types.MessageParam],
        stream: Optional[Literal[False]] = False,
        **params: Unpack[types.ChatParams],
    ) -> types.ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Iterable[types.MessageParam],
        stream: Literal[True],
        **params: Unpack[types.ChatParams],
    ) -> AsyncStream[types.ChatCompletionChunk]: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Iterable[types.MessageParam],
        stream: Optional[bool],
        **params: Unpack[types.ChatParams],
    ) -> Union[types.ChatCompletion, AsyncStream[types.ChatCompletionChunk]]: ...

    async def create(
        self,
        *,
        model: str,
        messages: Iterable[types.MessageParam],
        stream: Optional[bool] = False,
        **params: Unpack[types.ChatParams],
    ) -> Union[types.ChatCompletion, AsyncStream[types.ChatCompletionChunk]]:
        """Asks a model for an answer; with `stream=True` for its pieces as they come.

        Besides OpenAI's arguments there are `session_id` (the gateway keeps the conversation; `"new"` begins one),
        `user_id` (whom the call is made for) and `idempotency_key` (sending the call again does not do it again).
        """
        members: "dict[str, Any]" = {"model": model, "messages": messages, **params}
        if stream:
            members["stream"] = True
            return await self._client._stream(types.ChatCompletionChunk, "/v1/chat/completions", members)
        return await self._client._send(
            types.ChatCompletion, "POST", "/v1/chat/completions", members, user_in_body=True
        )


class AsyncChat(_AsyncResource):
    """`chat`."""

    @property
    def completions(self) -> AsyncCompletions:
        """Chat completions."""
        return AsyncCompletions(self._client)


class AsyncEmbeddings(_AsyncResource):
    """`embeddings`."""

    async def create(
        self,
        *,
        model: str,
        input: Union[str, List[str], Iterable[int], Iterable[Iterable[int]]],
        **params: Unpack[types.EmbeddingParams],
    ) -> types.CreateEmbeddingResponse:
        """Turns texts, or lists of tokens, into vectors."""
        members: "dict[str, Any]" = {"model": model, "input": input, **params}
        return await self._client._send(
            types.CreateEmbeddingResponse, "POST", "/v1/embeddings", members, user_in_body=True
        )


class AsyncModels(_AsyncResource):
    """`models`."""

    def list(self, **options: Unpack[types.CallOptions]) -> AsyncPager[types.ModelInfo]:
        """The models that the caller may use."""
        return self._client._list(types.ModelInfo, "/v1/models", options)

    async def retrieve(self, model: str, **options: Unpack[types.CallOptions]) -> types.ModelInfo:
        """One model."""
        path = f"/v1/models/{segment(model, 'model')}"
        return await self._client._send(types.ModelInfo, "GET", path, options)


class AsyncSessions(_AsyncResource):
    """`sessions`: conversations that the gateway keeps."""

    async def create(
        self,
        id: Optional[str] = None,
        *,
        user_id: Optional[str] = None,
        metadata: Optional[Mapping[str, Any]] = None,
        **options: Unpack[types.CallOptions],
    ) -> types.Session:
        """Creates a session, or gives the one of this id. Without an id a fresh one is made up."""
        members = {"id": id, "user_id": user_id, "metadata": metadata}
        given = {name: value for name, value in members.items() if value is not None}
        return await self._client._send(
            types.Session, "POST", "/v1/sessions", {**given, **options}, user_in_body=True
        )

    def list(
        self,
        *,
        user_id: Optional[str] = None,
        cursor: Optional[str] = None,
        limit: Optional[int] = None,
        **options: Unpack[types.CallOptions],
    ) -> AsyncPager[types.Session]:
        """A user's sessions, newest activity first."""
        params = {"user_id": user_id, "cursor": cursor, "limit": limit, **options}
        return self._client._list(types.Session, "/v1/sessions", params)

    async def retrieve(
        self, id: str, *, user_id: Optional[str] = None, **options: Unpack[types.CallOptions]
    ) -> types.Session:
        """One session."""
        params = {"user_id": user_id, **options}
        return await self._client._send(types.Session, "GET", f"/v1/sessions/{segment(id)}", params)

    def messages(
        self,
        id: str,
        *,
        user_id: Optional[str] = None,
        after: Optional[int] = None,
        cursor: Optional[str] = None,
        limit: Optional[int] = None,
        **options: Unpack[types.CallOptions],
    ) -> AsyncPager[types.SessionMessage]:
        """A session's messages, oldest first; `after`: those behind this position."""
        params = {"user_id": user_id, "after": after, "cursor": cursor, "limit": limit, **options}
        path = f"/v1/sessions/{segment(id)}/messages"
        return self._client._list(types.SessionMessage, path, params)

    async def delete(
        self, id: str, *, user_id: Optional[str] = None, **options: Unpack[types.CallOptions]
    ) -> None:
        """Deletes a session. That there is none is no error."""
        params = {"user_id": user_id, **options}
        await self._client._send(types.Model, "DELETE", f"/v1/sessions/{segment(id)}", params)


class AsyncTokens(_AsyncResource):
    """`tokens`."""

    async def count(
        self,
        *,
        model: str,
        messages: Iterable[types.MessageParam],
        **params: Unpack[types.ChatParams],
    ) -> types.TokenCount:
        """Counts the tokens of a prompt, without sending it."""
        members: "dict[str, Any]" = {"model": model, "messages": messages, **params}
        return await self._client._send(
            types.TokenCount, "POST", "/v1/tokens", members, user_in_body=True
        )


class AsyncRequests(_AsyncResource):
    """`requests`: the log of what was asked."""

    def list(
        self,
        *,
        user_id: Optional[str] = None,
        session_id: Optional[str] = None,
        model: Optional[str] = None,
        status: Optional[str] = None,
        since: Any = None,
        until: Any = None,
        cursor: Optional[str] = None,
        limit: Optional[int] = None,
        **options: Unpack[types.CallOptions],
    ) -> AsyncPager[types.RequestLog]:
        """Requests, newest first; `since` and `until`: dates, times or their texts (RFC 3339)."""
        params = {
            "user_id": user_id,
            "session_id": session_id,
            "model": model,
            "status": status,
            "from": since,
            "to": until,
            "cursor": cursor,
            "limit": limit,
            **options,
        }
        return self._client._list(types.RequestLog, "/v1/requests", params)

    async def retrieve(self, id: str, **options: Unpack[types.CallOptions]) -> types.RequestLog:
        """One request, with how it was routed."""
        return await self._client._send(types.RequestLog, "GET", f"/v1/requests/{segment(id)}", options)


class _AsyncCollection(_AsyncResource):
    _path = ""


class AsyncKeys(_AsyncCollection):
    """`admin.keys`."""

    _path = "/v1/admin/keys"

    async def create(self, **members: Any) -> types.ApiKey:
        """Makes an API key: `name`, `user_id`, `scopes`, `models`, `rpm`, `expires_at` and the others of the API. Its secret
        is the answer's `key`, and nowhere else."""
        return await self._client._send(types.ApiKey, "POST", self._path, members)

    def list(self, **options: Unpack[types.CallOptions]) -> AsyncPager[types.ApiKey]:
        """All API keys, oldest first."""
        return self._client._list(types.ApiKey, self._path, options)

    async def retrieve(self, id: str, **options: Unpack[types.CallOptions]) -> types.ApiKey:
        """One API key."""
        return await self._client._send(types.ApiKey, "GET", f"{self._path}/{segment(id)}", options)

    async def update(self, id: str, **members: Any) -> types.ApiKey:
        """Changes what a key may use and spend; what is not named stays."""
        return await self._client._send(types.ApiKey, "PATCH", f"{self._path}/{segment(id)}", members)

    async def rotate(
        self, id: str, *, grace_seconds: Optional[int] = None, **options: Unpack[types.CallOptions]
    ) -> types.ApiKey:
        """Gives a key a new secret; the old one goes on working for a day, or `grace_seconds`."""
        members = {} if grace_seconds is None else {"grace_seconds": grace_seconds}
        path = f"{self._path}/{segment(id)}/rotate"
        return await self._client._send(types.ApiKey, "POST", path, {**members, **options})

    async def delete(self, id: str, **options: Unpack[types.CallOptions]) -> None:
        """Revokes a key for good."""
        await self._client._send(types.Model, "DELETE", f"{self._path}/{segment(id)}", options)


class AsyncBudgets(_AsyncCollection):
    """`admin.budgets`."""

    _path = "/v1/admin/budgets"

    async def create(self, **members: Any) -> types.Budget:
        """Adds a budget."""
        return await self._client._send(types.Budget, "POST", self._path, members)

    def list(self, **options: Unpack[types.CallOptions]) -> AsyncPager[types.Budget]:
        """All budgets, and how they stand."""
        return self._client._list(types.Budget, self._path, options)

    async def retrieve(self, id: int, **options: Unpack[types.CallOptions]) -> types.Budget:
        """One budget."""
        return await self._client._send(types.Budget, "GET", f"{self._path}/{segment(id)}", options)

    async def replace(self, id: int, **members: Any) -> types.Budget:
        """Puts other members in the place of a budget's."""
        return await self._client._send(types.Budget, "PUT", f"{self._path}/{segment(id)}", members)

    async def delete(self, id: int, **options: Unpack[types.CallOptions]) -> None:
        """Deletes a budget."""
        await self._client._send(types.Model, "DELETE", f"{self._path}/{segment(id)}", options)


class AsyncPrices(_AsyncCollection):
    """`admin.prices`."""

    _path = "/v1/admin/prices"

    async def create(self, **members: Any) -> types.Price:
        """Adds a price."""
        return await self._client._send(types.Price, "POST", self._path, members)

    def list(self, **options: Unpack[types.CallOptions]) -> AsyncPager[types.Price]:
        """All prices of the database."""
        return self._client._list(types.Price, self._path, options)

    async def retrieve(self, id: int, **options: Unpack[types.CallOptions]) -> types.Price:
        """One price."""
        return await self._client._send(types.Price, "GET", f"{self._path}/{segment(id)}", options)

    async def replace(self, id: int, **members: Any) -> types.Price:
        """Puts other members in the place of a price's."""
        return await self._client._send(types.Price, "PUT", f"{self._path}/{segment(id)}", members)

    async def delete(self, id: int, **options: Unpack[types.CallOptions]) -> None:
        """Deletes a price."""
        await self._client._send(types.Model, "DELETE", f"{self._path}/{segment(id)}", options)


class AsyncRoutingRules(_AsyncCollection):
    """`admin.routing_rules`."""

    _path = "/v1/admin/routing-rules"

    async def create(self, **members: Any) -> types.RoutingRule:
        """Adds a rule: `model_name`, `provider_id`, `priority`, `weight`, `max_rps`, `is_enabled`, `upstream_model`."""
        return await self._client._send(types.RoutingRule, "POST", self._path, members)

    def list(self, **options: Unpack[types.CallOptions]) -> AsyncPager[types.RoutingRule]:
        """All rules of the database."""
        return self._client._list(types.RoutingRule, self._path, options)

    async def retrieve(self, id: int, **options: Unpack[types.CallOptions]) -> types.RoutingRule:
        """One rule."""
        return await self._client._send(types.RoutingRule, "GET", f"{self._path}/{segment(id)}", options)

    async def replace(self, id: int, **members: Any) -> types.RoutingRule:
        """Puts other members in the place of a rule's."""
        return await self._client._send(types.RoutingRule, "PUT", f"{self._path}/{segment(id)}", members)

    async def delete(self, id: int, **options: Unpack[types.CallOptions]) -> None:
        """Deletes a rule."""
        await self._client._send(types.Model, "DELETE", f"{self._path}/{segment(id)}", options)


class AsyncProviders(_AsyncCollection):
    """`admin.providers`."""

    _path = "/v1/admin/providers"

    async def create(self, **members: Any) -> types.ProviderInfo:
        """Sets a provider up: `id`, and the members of `providers.<id>` in the configuration."""
        return await self._client._send(types.ProviderInfo, "POST", self._path, members)

    def list(self, **options: Unpack[types.CallOptions]) -> AsyncPager[types.ProviderInfo]:
        """All providers, without their keys."""
        return self._client._list(types.ProviderInfo, self._path, options)

    async def retrieve(self, id: str, **options: Unpack[types.CallOptions]) -> types.ProviderInfo:
        """One provider."""
        return await self._client._send(types.ProviderInfo, "GET", f"{self._path}/{segment(id)}", options)

    async def replace(self, id: str, **members: Any) -> types.ProviderInfo:
        """Puts other members in the place of a provider's; secrets that are left out stay."""
        return await self._client._send(types.ProviderInfo, "PUT", f"{self._path}/{segment(id)}", members)

    async def delete(self, id: str, **options: Unpack[types.CallOptions]) -> None:
        """Deletes a provider that was set up here."""
        await self._client._send(types.Model, "DELETE", f"{self._path}/{segment(id)}", options)


class AsyncAdmin(_AsyncResource):
    """`admin`: what the program itself, and admin keys, may change. A change is in force at once on every instance."""

    @property
    def keys(self) -> AsyncKeys:
        """API keys."""
        return AsyncKeys(self._client)

    @property
    def budgets(self) -> AsyncBudgets:
        """Budgets."""
        return AsyncBudgets(self._client)

    @property
    def prices(self) -> AsyncPrices:
        """Prices."""
        return AsyncPrices(self._client)

    @property
    def providers(self) -> AsyncProviders:
        """Providers."""
        return AsyncProviders(self._client)

    @property
    def routing_rules(self) -> AsyncRoutingRules:
        """Routing rules."""
        return AsyncRoutingRules(self._client)
