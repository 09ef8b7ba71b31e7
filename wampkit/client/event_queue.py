"""Bounded queues for the events of a client."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Generic, TypeVar

from ..errors import ConnectionLost
from ..telemetry.logs import logger_of

__all__ = ["BoundedQueue", "EventQueue"]

logger: logging.Logger = logger_of(__name__)

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """A queue with a bound on its items and one on their bytes; the oldest items are dropped to keep them.

    Args:
        max_items: How many items it holds at most.
        max_size: The bytes of their messages together; one item alone may be larger.
    """

    def __init__(self, max_items: int, max_size: int) -> None:
        self._max_items = max_items
        self._max_size = max_size
        self._size = 0
        self._items: deque[tuple[T, int]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: T, size: int) -> int:
        """Add an item whose message had `size` bytes; returns how many items were dropped for it."""
        self._items.append((item, size))
        self._size += size
        dropped = 0
        while len(self._items) > self._max_items or (self._size > self._max_size and len(self._items) > 1):
            self.popleft()
            dropped += 1
        return dropped

    def popleft(self) -> T:
        """Remove the oldest item and return it."""
        item, size = self._items.popleft()
        self._size -= size
        return item

    def clear(self) -> list[tuple[T, int]]:
        """Remove all items and return them, the oldest first, each with its bytes."""
        items = list(self._items)
        self._items.clear()
        self._size = 0
        return items


class EventQueue:
    """The received events of one subscription that have not been fetched, and the tasks that wait for one.

    Attributes:
        dropped: How many events have been dropped because the queue was full.
    """

    def __init__(self, topic: str, max_events: int, max_size: int) -> None:
        self.dropped: int = 0
        self._topic = topic
        self._events: BoundedQueue[Any] = BoundedQueue(max_events, max_size)
        self._changed = asyncio.Event()
        self._end: ConnectionLost | None = None

    def __len__(self) -> int:
        return len(self._events)

    def reopen(self) -> None:
        """Take events again after `close`."""
        self._end = None

    def put(self, event: Any, size: int) -> None:
        """Add an event whose message had `size` bytes; where the queue is full the oldest events are dropped."""
        dropped = self._events.append(event, size)
        if dropped and not self.dropped:
            logger.warning("events on %r are dropped: %d wait to be fetched", self._topic, len(self._events))
        self.dropped += dropped
        self._changed.set()

    async def get(self) -> Any:
        """Wait for the next event. Raises ConnectionLost once the queue is closed and empty."""
        while not self._events:
            if self._end is not None:
                raise ConnectionLost(self._end.reason, self._end.code)
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    def close(self, reason: ConnectionLost) -> None:
        """End the queue: events that are in it can still be fetched. The first reason stays."""
        if self._end is None:
            self._end = reason
        self._changed.set()
