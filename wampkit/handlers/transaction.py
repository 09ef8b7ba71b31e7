"""A transactional outbox: what a message publishes leaves when its dependencies have ended well, or not at all."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar

__all__ = ["Transaction", "current_transaction"]

Send = Callable[[], Awaitable[None]]

current_transaction: ContextVar[Transaction | None] = ContextVar("wampkit_transaction", default=None)
"""That of the message being handled. Threads and tasks of its handler have it too, also after its end."""


class Transaction:
    """What one message publishes until its generator dependencies have ended, such as a database's commit."""

    __slots__ = ("_events", "_given_up", "_open")

    def __init__(self) -> None:
        self._events: deque[Send] = deque()
        self._open = True
        self._given_up = False

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Around the handling of the message, in its task."""
        token = current_transaction.set(self)
        try:
            yield
        finally:
            current_transaction.reset(token)

    def hold(self, send: Send) -> bool:
        """Hold an event back until the end; False if that has come, so that it is to be sent at once.

        Args:
            send: What sends it.

        Raises:
            RuntimeError: The message was given up, and only its thread goes on.
        """
        if self._given_up:
            raise RuntimeError("this call was given up, so what it did is rolled back, and nothing is published for it")
        if self._open:
            self._events.append(send)
        return self._open

    async def commit(self) -> None:
        """Send what was held back, in order, and hold nothing back any more.

        All events are sent, even if one fails. Raises what the broker raised first.
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
        """Drop what was held back.

        Args:
            given_up: Whether the handler or a dependency may still run in a thread, which cannot be stopped.
        """
        self._events.clear()
        self._open = False
        self._given_up = given_up
