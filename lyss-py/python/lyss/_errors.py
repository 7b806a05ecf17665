"""What goes wrong, as exceptions. Named as those of the `openai` package, chosen by status."""

from __future__ import annotations

import json
from typing import Any, Mapping, Optional

from ._model import ResponseMeta

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ConfigError",
    "ConflictError",
    "GatewayClosedError",
    "InternalServerError",
    "LyssError",
    "LyssForkError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "UnprocessableEntityError",
]


class LyssError(Exception):
    """The base of all errors of this package."""

    message: str
    """What was wrong and what to do."""
    status_code: Optional[int]
    """The HTTP status that the error has at the gateway's door."""
    code: Optional[str]
    """The error's name, such as `model_not_found`: stable, to be compared with."""
    type: Optional[str]
    """The group that the code belongs to, such as `invalid_request_error`."""
    param: Optional[str]
    """The argument that is wrong, such as `messages[0].role`."""
    request_id: Optional[str]
    """The gateway's id of the request: `gateway.requests.retrieve(request_id)` tells what happened."""
    should_retry: Optional[bool]
    """Whether sending the same request again may help and cannot be charged twice; `None` where nothing is said."""
    retry_after: Optional[float]
    """Seconds to wait before that."""
    body: Optional[Any]
    """The error as the gateway sent it."""
    meta: ResponseMeta
    """What else the gateway says about the answer, from its headers."""

    def __init__(
        self,
        message: str,
        *,
        status_code: Optional[int] = None,
        code: Optional[str] = None,
        type: Optional[str] = None,
        param: Optional[str] = None,
        request_id: Optional[str] = None,
        should_retry: Optional[bool] = None,
        retry_after: Optional[float] = None,
        body: Optional[Any] = None,
        meta: Optional[ResponseMeta] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.should_retry = should_retry
        self.retry_after = retry_after
        self.body = body
        self.meta = meta if meta is not None else ResponseMeta({})

    def __str__(self) -> str:
        told = [
            f"{name} {value}"
            for name, value in (("code", self.code), ("param", self.param), ("request", self.request_id))
            if value is not None
        ]
        return f"{self.message} ({', '.join(told)})" if told else self.message

    def __reduce__(self) -> Any:
        members = {name: value for name, value in self.__dict__.items() if name != "message"}
        return _rebuilt, (self.__class__, self.message, members)


def _rebuilt(cls: "type[LyssError]", message: str, members: Mapping[str, Any]) -> LyssError:
    error = cls(message)
    error.__dict__.update(members)
    return error


class ConfigError(LyssError, ValueError):
    """The configuration is wrong. The message has a line for each error, with its place in the file."""


class GatewayClosedError(LyssError, RuntimeError):
    """The gateway was closed."""


class LyssForkError(LyssError, RuntimeError):
    """A stream, or a call, that was begun before `os.fork()` was used in the child."""


class APIError(LyssError):
    """A call failed."""


class APIConnectionError(APIError):
    """The service could not be reached."""

    def __init__(self, message: str = "the service could not be reached", **members: Any) -> None:
        super().__init__(message, **members)


class APITimeoutError(APIConnectionError):
    """The answer did not come within `timeout`."""

    def __init__(self, message: str = "no answer within `timeout`", **members: Any) -> None:
        super().__init__(message, **members)


class APIStatusError(APIError):
    """The gateway, or the provider, answered with an error."""

    status_code: int


class BadRequestError(APIStatusError):
    """400: the request is wrong."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing, unknown or expired."""


class BudgetExceededError(APIStatusError):
    """402: a budget does not cover the call, or the model has no price and a budget applies."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class NotFoundError(APIStatusError):
    """404: there is no such model, session, request or path."""


class ConflictError(APIStatusError):
    """409: another turn of the session, or a request with the same idempotency key, is running or was stored."""


class UnprocessableEntityError(APIStatusError):
    """422: the idempotency key was used with another body, or the provider cannot process the request."""


class RateLimitError(APIStatusError):
    """429: a limit on requests or tokens, the gateway's or the provider's; see `retry_after`."""


class InternalServerError(APIStatusError):
    """500 and above: the gateway, something it depends on, or the provider failed."""


_CLASSES: "dict[int, type[APIStatusError]]" = {
    400: BadRequestError,
    401: AuthenticationError,
    402: BudgetExceededError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}

# An error that comes in a stream has no status of its own: those of the types that the envelope names.
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "rate_limit_error": 429,
    "gateway_error": 500,
    "upstream_error": 502,
    "overloaded_error": 503,
    "timeout_error": 504,
}


def _class_of(status: int) -> "type[APIStatusError]":
    return _CLASSES.get(status) or (InternalServerError if status >= 500 else APIStatusError)


def from_response(status: int, headers: Mapping[str, str], content: bytes) -> APIError:
    """The exception for an answer with an error status. Header names are in lower case."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    told = body.get("error") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        told = {"message": content.decode("utf-8", "replace")[:1000] or f"status {status}"}
    should_retry = headers.get("x-should-retry")
    return _made(
        told,
        status,
        request_id=headers.get("x-request-id"),
        should_retry=None if should_retry is None else should_retry == "true",
        retry_after=_seconds(headers.get("retry-after")),
        meta=ResponseMeta(headers),
    )


def from_event(told: Mapping[str, Any], meta: ResponseMeta) -> APIError:
    """The exception for an error that ends a stream."""
    kind = told.get("type")
    status = _STATUSES.get(kind, 502) if isinstance(kind, str) else 502
    # What has begun to be answered may have been charged.
    return _made(
        told, status, request_id=meta.request_id, should_retry=False, retry_after=None, meta=meta
    )


def incomplete(meta: ResponseMeta) -> APIError:
    """The exception for a stream that ends before it is complete."""
    told = {
        "message": "the answer ended before it was complete",
        "type": "upstream_error",
        "code": "upstream_incomplete",
    }
    return from_event(told, meta)


def _made(
    told: Mapping[str, Any],
    status: int,
    *,
    request_id: Optional[str],
    should_retry: Optional[bool],
    retry_after: Optional[float],
    meta: ResponseMeta,
) -> APIError:
    cls: "type[APIError]" = _class_of(status)
    if told.get("code") == "service_unreachable":
        cls = APIConnectionError
    return cls(
        str(told.get("message") or f"status {status}"),
        status_code=status,
        code=told.get("code"),
        type=told.get("type"),
        param=told.get("param"),
        request_id=told.get("request_id") or request_id,
        should_retry=should_retry,
        retry_after=retry_after,
        body=dict(told),
        meta=meta,
    )


def _seconds(text: Optional[str]) -> Optional[float]:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
