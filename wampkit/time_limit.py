"""One timer for all connections that must log in before their time is over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from weakref import ref

from .connection import Connection

__all__ = ["TimeLimit"]

POLICY_VIOLATION = 1008


class TimeLimit:
    """Closes the connections that have not logged in when their time is over. Those that have cost nothing more.

    Args:
        seconds: How long each has from its WELCOME.
        logged_in: Whether a connection has logged in.
    """

    def __init__(self, seconds: float, logged_in: Callable[[Connection], bool]) -> None:
        self._seconds = seconds
        self._logged_in = logged_in
        # All have the same time, so who came first is due first.
        self._waiting: deque[tuple[float, ref[Connection]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        """A connection has been welcomed."""
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + self._seconds, ref(connection)))
        if self._timer is None:
            self._timer = loop.call_at(self._waiting[0][0], self._look)

    def close(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        # Timers may run early by the clock's resolution.
        now = loop.time() + 0.001
        while self._waiting and self._waiting[0][0] <= now:
            connection = self._waiting.popleft()[1]()
            if connection is not None and not connection.closed and not self._logged_in(connection):
                reason = f"no login within {self._seconds:g} s"
                connection.complaints.add("no login", f"closed: {reason}")
                connection.close(POLICY_VIOLATION, reason)
        self._timer = loop.call_at(self._waiting[0][0], self._look) if self._waiting else None
