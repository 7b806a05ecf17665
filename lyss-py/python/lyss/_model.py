"""Results: JSON that is read when it is first looked into."""

from __future__ import annotations

import json
from typing import Any, Callable, ClassVar, Mapping, Optional, Union

__all__ = ["Model", "ResponseMeta"]


class ResponseMeta:
    """What the gateway says about an answer, from its headers."""

    __slots__ = ("_told",)

    def __init__(
        self, headers: Union[Mapping[str, str], Callable[[], "list[tuple[str, str]]"]]
    ) -> None:
        self._told = headers

    @property
    def _headers(self) -> Mapping[str, str]:
        if callable(self._told):
            # Most callers never look.
            self._told = dict(self._told())
        return self._told

    @property
    def headers(self) -> Mapping[str, str]:
        """All headers, names in lower case."""
        return self._headers

    @property
    def request_id(self) -> Optional[str]:
        """The gateway's id of the request."""
        return self._headers.get("x-request-id")

    @property
    def provider(self) -> Optional[str]:
        """The provider that answered."""
        return self._headers.get("x-lyss-provider")

    @property
    def upstream_model(self) -> Optional[str]:
        """The model name that went to the provider."""
        return self._headers.get("x-lyss-model")

    @property
    def session_id(self) -> Optional[str]:
        """The session that the turn was stored in."""
        return self._headers.get("x-lyss-session-id")

    @property
    def attempts(self) -> Optional[int]:
        """How many attempts it took."""
        return _integer(self._headers.get("x-lyss-attempts"))

    @property
    def context(self) -> Optional[str]:
        """`compressed` or `truncated` where not all of the conversation was sent word for word."""
        return self._headers.get("x-lyss-context")

    @property
    def cache(self) -> Optional[str]:
        """`hit` or `miss` where a cache was asked."""
        return self._headers.get("x-lyss-cache")

    @property
    def memory(self) -> Optional[str]:
        """`unavailable` where the memory did not answer."""
        return self._headers.get("x-lyss-memory")

    @property
    def max_tokens_clamped(self) -> Optional[int]:
        """The output limit that a budget left, where that is less than was asked for."""
        return _integer(self._headers.get("x-lyss-max-tokens-clamped"))

    @property
    def replayed(self) -> bool:
        """Whether this answer was given before, to the same request with the same idempotency key."""
        return self._headers.get("idempotent-replayed") == "true"

    def __repr__(self) -> str:
        names = ("request_id", "provider", "upstream_model", "session_id", "attempts", "context", "replayed")
        told = ((name, getattr(self, name)) for name in names)
        return f"ResponseMeta({', '.join(f'{name}={value!r}' for name, value in told if value)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResponseMeta) and dict(self._headers) == dict(other._headers)

    def __reduce__(self) -> Any:
        return ResponseMeta, (dict(self._headers),)

    __hash__ = None  # type: ignore[assignment]


class Model:
    """A JSON object with its members as attributes.

    Members that the class names and the object has not are `None`; what else the object has is there as well. Read only:
    `to_dict()` gives a dict to change. Instances can be pickled, compared, and sent again as a part of a request.
    """

    # Members that are objects, or arrays of objects, and the class that each has.
    _nested: ClassVar[Mapping[str, Any]] = {}
    # Members that are objects of the caller's own, and stay dicts.
    _plain: ClassVar["frozenset[str]"] = frozenset()
    _names: ClassVar["frozenset[str]"] = frozenset()

    _content: Union[bytes, Mapping[str, Any]]
    _meta: Optional[ResponseMeta]

    def __init_subclass__(cls, **members: Any) -> None:
        super().__init_subclass__(**members)
        own = (name for name in getattr(cls, "__annotations__", {}) if not name.startswith("_"))
        cls._names = cls._names.union(own)

    def __init__(
        self, content: Union[bytes, Mapping[str, Any]], meta: Optional[ResponseMeta] = None
    ) -> None:
        self.__dict__["_content"] = content
        self.__dict__["_meta"] = meta

    @property
    def meta(self) -> ResponseMeta:
        """What the gateway says about the answer that this is, or was a part of."""
        return self._meta if self._meta is not None else ResponseMeta({})

    @property
    def request_id(self) -> Optional[str]:
        """The gateway's id of the request."""
        return self._meta.request_id if self._meta is not None else None

    def _data(self) -> Mapping[str, Any]:
        content = self._content
        if isinstance(content, bytes):
            content = json.loads(content)
            if not isinstance(content, dict):
                content = {"data": content}
            self.__dict__["_content"] = content
        return content

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        data = self._data()
        if name in data:
            value = data[name]
            if name not in self._plain and isinstance(value, (dict, list)):
                value = _wrapped(value, self._nested.get(name, Model))
        elif name in self._names:
            value = None
        else:
            raise AttributeError(
                f"{type(self).__name__} has no {name!r}; it has: {', '.join(sorted(data))}"
            )
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"results are read-only; change the dict that to_dict() gives ({name!r})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"results are read-only; change the dict that to_dict() gives ({name!r})")

    def to_dict(self) -> "dict[str, Any]":
        """The object as it came, as a dict of your own."""
        content = self._content
        # Not the dict that attributes are read from.
        fresh = json.loads(content if isinstance(content, bytes) else json.dumps(content))
        return fresh if isinstance(fresh, dict) else {"data": fresh}

    def to_json(self, *, indent: Optional[int] = None) -> str:
        """The object as JSON text."""
        content = self._content
        if indent is None and isinstance(content, bytes):
            return content.decode()
        return json.dumps(self._data(), indent=indent, ensure_ascii=False)

    def model_dump(self, **_: Any) -> "dict[str, Any]":
        """As `to_dict()`, under the name that pydantic has for it."""
        return self.to_dict()

    def model_dump_json(self, *, indent: Optional[int] = None, **_: Any) -> str:
        """As `to_json()`, under the name that pydantic has for it."""
        return self.to_json(indent=indent)

    def __repr__(self) -> str:
        members = (f"{name}={getattr(self, name)!r}" for name in self._data())
        return f"{type(self).__name__}({', '.join(members)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and type(other) is type(self) and other._data() == self._data()

    __hash__ = None  # type: ignore[assignment]

    def __dir__(self) -> "list[str]":
        return sorted({*super().__dir__(), *self._names, *self._data()})

    def __reduce__(self) -> Any:
        return type(self), (self._content, self._meta)


def _wrapped(value: Any, cls: Any) -> Any:
    if isinstance(value, dict):
        return cls(value)
    if isinstance(value, list):
        return [_wrapped(item, cls) for item in value]
    return value


def _integer(text: Optional[str]) -> Optional[int]:
    return int(text) if text is not None and text.isdigit() else None
