"""Bounds on logins: how often one may fail, and how long one may take."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from weakref import ref

from ..connection.connection import Connection
from ..limits import TokenBuckets
from ..networks import client_network
from ..protocol.websocket import CloseCode

__all__ = ["LoginDeadline", "LoginThrottle"]

WIDER = 10
"""So many times as often as from one address may be guessed at one authkey: whoever knows an authkey could otherwise
lock its owner out with the guesses of a few seconds."""

MOST = 10_000
"""Addresses, and authkeys, that are remembered."""


class LoginThrottle:
    """Counts failed logins by client address and by authkey.

    Args:
        per_minute: How many may fail from one address, in the long run and at once; None for any number.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._addresses: TokenBuckets | None = None
        self._authkeys: TokenBuckets | None = None
        if per_minute is not None:
            burst = max(1, int(per_minute))
            self._addresses = TokenBuckets(per_minute / 60, burst, MOST)
            self._authkeys = TokenBuckets(WIDER * per_minute / 60, WIDER * burst, MOST)

    def is_over(self, remote: str | None, authkey: str) -> bool:
        """Whether no further attempt may be made now.

        Args:
            remote: The client's address, or None where it has none.
            authkey: Whose secret is guessed.
        """
        if self._addresses is None or self._authkeys is None:
            return False
        if remote is not None and self._addresses.spent(client_network(remote)):
            return True
        return self._authkeys.spent(_digest(authkey))

    def take(self, remote: str | None, authkey: str) -> bool:
        """Whether one more attempt may be made now; it counts as failed until `give_back`."""
        if self._addresses is None or self._authkeys is None:
            return True
        if remote is not None and not self._addresses.take(client_network(remote)):
            return False
        return self._authkeys.take(_digest(authkey))

    def give_back(self, remote: str | None, authkey: str) -> None:
        """The attempt did not fail."""
        if self._addresses is None or self._authkeys is None:
            return
        if remote is not None:
            self._addresses.give_back(client_network(remote))
        self._authkeys.give_back(_digest(authkey))

    def __len__(self) -> int:
        """How many addresses and authkeys are remembered."""
        return 0 if self._addresses is None or self._authkeys is None else len(self._addresses) + len(self._authkeys)


def _digest(authkey: str) -> bytes:
    """What stands for an authkey: a client chooses its length, and thousands of them are remembered."""
    return hashlib.blake2b(authkey.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class LoginDeadline:
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
                connection.log.add("no login", f"closed: {reason}")
                connection.close(CloseCode.POLICY_VIOLATION, reason)
        self._timer = loop.call_at(self._waiting[0][0], self._look) if self._waiting else None
