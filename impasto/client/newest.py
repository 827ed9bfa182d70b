"""Places for one item, the newest: who takes slowly finds no pile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Between two threads. Iterating over it takes items until it is closed."""

    def __init__(self) -> None:
        self.closed = False
        self._item: T | None = None
        self._changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Replace the item that waits, if any; False if it is closed."""
        with self._changed:
            if self.closed:
                return False
            self._item = item
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Take no more items in; the one that waits can still be taken."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def take(self, timeout: float | None = None) -> T | None:
        """The item that waits, or the next; None if it does not come within `timeout` seconds or any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self.closed, timeout)
            item, self._item = self._item, None
            return item

    def __iter__(self) -> Iterator[T]:
        while (item := self.take()) is not None:
            yield item


class AsyncNewest(Generic[T]):
    """As `Newest`, between two tasks."""

    def __init__(self) -> None:
        self.closed = False
        self._item: T | None = None
        self._changed = asyncio.Event()

    def put(self, item: T) -> bool:
        """See `Newest.put`."""
        if self.closed:
            return False
        self._item = item
        self._changed.set()
        return True

    def close(self) -> None:
        """See `Newest.close`."""
        self.closed = True
        self._changed.set()

    async def take(self, timeout: float | None = None) -> T | None:  # noqa: ASYNC109 (as the other take)
        """See `Newest.take`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        item, self._item = self._item, None
        if not self.closed:
            self._changed.clear()
        return item

    async def __aiter__(self) -> AsyncIterator[T]:
        while (item := await self.take()) is not None:
            yield item
