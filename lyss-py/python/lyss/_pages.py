"""Listings, a page at a time."""

from __future__ import annotations

from typing import Any, AsyncIterator, Awaitable, Callable, Generator, Generic, Iterator, List, Optional, TypeVar

from ._lyss import Reply
from ._model import Model, ResponseMeta
from ._request import checked, meta_of

T = TypeVar("T", bound=Model)

__all__ = ["AsyncPage", "AsyncPager", "Page"]


class _Entries(Generic[T]):
    """What both kinds of page share."""

    def __init__(self, reply: Reply, cls: Callable[[Any], T]) -> None:
        self._list = Model(checked(reply).body or b"{}", meta_of(reply))
        self._cls = cls

    @property
    def data(self) -> List[T]:
        """The entries of this page."""
        return [self._cls(entry) for entry in self._list._data().get("data", [])]

    @property
    def next_cursor(self) -> Optional[str]:
        """Where the next page begins; `None` on the last."""
        cursor: Optional[str] = self._list._data().get("next_cursor")
        return cursor

    @property
    def meta(self) -> ResponseMeta:
        """What the gateway says about the answer."""
        return self._list.meta

    @property
    def request_id(self) -> Optional[str]:
        """The gateway's id of the request."""
        return self._list.request_id

    def has_next_page(self) -> bool:
        """Whether there is more."""
        return self.next_cursor is not None

    def to_dict(self) -> "dict[str, Any]":
        """The page as it came."""
        return self._list.to_dict()

    def __len__(self) -> int:
        return len(self._list._data().get("data", []))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(data={self.data!r}, next_cursor={self.next_cursor!r})"


class Page(_Entries[T]):
    """A page of a listing. Iterating goes on over the pages that follow; `data` is this one alone."""

    def __init__(
        self, reply: Reply, cls: Callable[[Any], T], next_page: Callable[[str], Page[T]]
    ) -> None:
        super().__init__(reply, cls)
        self._next_page = next_page

    def get_next_page(self) -> Page[T]:
        """The page that follows."""
        cursor = self.next_cursor
        if cursor is None:
            raise RuntimeError("this is the last page; check `has_next_page()` first")
        return self._next_page(cursor)

    def __iter__(self) -> Iterator[T]:
        page = self
        while True:
            yield from page.data
            if not page.has_next_page():
                return
            page = page.get_next_page()


class AsyncPage(_Entries[T]):
    """A page of a listing. Iterating (`async for`) goes on over the pages that follow; `data` is this one alone."""

    def __init__(
        self, reply: Reply, cls: Callable[[Any], T], next_page: Callable[[str], Awaitable[AsyncPage[T]]]
    ) -> None:
        super().__init__(reply, cls)
        self._next_page = next_page

    async def get_next_page(self) -> AsyncPage[T]:
        """The page that follows."""
        cursor = self.next_cursor
        if cursor is None:
            raise RuntimeError("this is the last page; check `has_next_page()` first")
        return await self._next_page(cursor)

    async def __aiter__(self) -> AsyncIterator[T]:
        page = self
        while True:
            for entry in page.data:
                yield entry
            if not page.has_next_page():
                return
            page = await page.get_next_page()


class AsyncPager(Generic[T]):
    """A listing that was asked for: `await` it for its first page, or `async for` over its entries."""

    def __init__(self, first: Callable[[], Awaitable[AsyncPage[T]]]) -> None:
        self._first = first

    def __await__(self) -> Generator[Any, None, AsyncPage[T]]:
        return self._first().__await__()

    async def __aiter__(self) -> AsyncIterator[T]:
        async for entry in await self._first():
            yield entry
