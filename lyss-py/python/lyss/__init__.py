"""Lyss: an AI gateway inside your process.

    import lyss

    with lyss.Gateway() as gw:
        answer = gw.chat.completions.create(
            model="simulated/echo", messages=[{"role": "user", "content": "hi"}]
        )
        print(answer.choices[0].message.content)
"""

from . import types
from ._client import AsyncGateway, Gateway, connect
from ._errors import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigError,
    ConflictError,
    GatewayClosedError,
    InternalServerError,
    LyssError,
    LyssForkError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnprocessableEntityError,
)
from ._lyss import VERSION as __version__
from ._pages import AsyncPage, Page
from ._request import Response
from ._stream import AsyncStream, Stream

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncGateway",
    "AsyncPage",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "BudgetExceededError",
    "ConfigError",
    "ConflictError",
    "Gateway",
    "GatewayClosedError",
    "InternalServerError",
    "LyssError",
    "LyssForkError",
    "NotFoundError",
    "Page",
    "PermissionDeniedError",
    "RateLimitError",
    "Response",
    "Stream",
    "UnprocessableEntityError",
    "__version__",
    "connect",
    "types",
]
