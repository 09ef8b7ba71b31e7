"""A transactional outbox: the events of a message are sent when its dependencies have ended without an error."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar

__all__ = ["Transaction", "current_transaction"]

Send = Callable[[], Awaitable[None]]

current_transaction: ContextVar[Transaction | None] = ContextVar("wampkit_transaction", default=None)
"""The transaction of the message being handled; also set in its handler's threads and tasks, even after its end."""


class Transaction:
    """Holds the events of one message until its generator dependencies have ended, such as a database's commit."""

    __slots__ = ("_events", "_given_up", "_open")

    def __init__(self) -> None:
        self._events: deque[Send] = deque()
        self._open = True
        self._given_up = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Make this the current transaction, in the task that handles the message."""
        token = current_transaction.set(self)
        try:
            yield
        finally:
            current_transaction.reset(token)

    def hold(self, send: Send) -> bool:
        """Hold an event until `commit`; False after it, so that the caller sends the event at once.

        Raises:
            RuntimeError: The message was cancelled, and only its thread still runs.
        """
        if self._given_up:
            raise RuntimeError("this call was given up, so what it did is rolled back, and nothing is published for it")
        if self._open:
            self._events.append(send)
        return self._open

    async def commit(self) -> None:
        """Send the held events in order; hold no further ones.

        All are sent, even if one fails; then the broker's first exception is raised.
        """
        failure: BaseException | None = None
        while self._events:  # a task of the handler may add more meanwhile
            try:
                await self._events.popleft()()
            except BaseException as error:
                failure = failure or error
        self._open = False
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback refers back to it

    def roll_back(self, *, given_up: bool) -> None:
        """Drop the held events; hold no further ones.

        Args:
            given_up: Whether `hold` raises from now on: a cancelled handler or dependency may still run in a thread.
        """
        self._events.clear()
        self._open = False
        self._given_up = given_up
