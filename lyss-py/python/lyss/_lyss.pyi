"""The native part of `lyss`; not for direct use."""

from typing import Any, Callable, Literal, Mapping, Optional, final

__all__ = [
    "Answer",
    "Call",
    "Core",
    "Port",
    "Reply",
    "Stream",
    "VERSION",
    "after_fork_in_child",
]

VERSION: str

def after_fork_in_child() -> None: ...

@final
class Answer:
    def resolve(self, value: Any) -> None: ...
    def fail(self, code: str, message: str) -> None: ...
    def on_cancel(self, cancel: Callable[[], object]) -> None: ...

@final
class Call:
    def take(self) -> Any: ...
    def cancel(self) -> None: ...

@final
class Core:
    @staticmethod
    def open(
        kind: str,
        text: str,
        data_dir: Optional[str] = None,
        session_store: Optional[Any] = None,
        balancers: Mapping[str, Any] = ...,
    ) -> Core: ...
    @staticmethod
    def connect(
        url: str,
        api_key: Optional[str] = None,
        connect_timeout: Optional[float] = None,
        ca_file: Optional[str] = None,
    ) -> Core: ...
    def call(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: Optional[bytes] = None,
        credential: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Reply: ...
    def start(
        self,
        port: Port,
        token: int,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        body: Optional[bytes] = None,
        credential: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Call: ...
    def register_provider(self, id: str, provider: Any, models: list[str]) -> None: ...
    def metrics(self) -> str: ...
    def close(self, grace: float) -> None: ...
    def start_close(self, port: Port, token: int, grace: float) -> Optional[Call]: ...
    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None: ...
    @property
    def closed(self) -> bool: ...

@final
class Port:
    def __new__(cls) -> Port: ...
    def fileno(self) -> int: ...
    def drain(self) -> list[int]: ...

@final
class Reply:
    @property
    def status(self) -> int: ...
    @property
    def body(self) -> Optional[bytes]: ...
    @property
    def stream(self) -> Optional[Stream]: ...
    def header(self, name: str) -> Optional[str]: ...
    def headers(self) -> list[tuple[str, str]]: ...

@final
class Stream:
    def next(self, timeout: Optional[float] = None, raw: bool = False) -> Optional[bytes]: ...
    def poll(self, port: Port, token: int, raw: bool = False) -> bytes | Literal[False] | None: ...
    @property
    def done(self) -> bool: ...
    def close(self) -> None: ...
