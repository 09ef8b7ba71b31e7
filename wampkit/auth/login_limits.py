"""Bounds on logins: how many may fail, and how long a connection may take to log in."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Hashable
from weakref import ref

from ..connection.server_connection import ServerConnection
from ..limits import TokenBuckets
from ..networks import client_network
from ..protocol.websocket import CloseCode

__all__ = ["LoginDeadline", "LoginThrottle"]

AUTHKEY_FACTOR = 10
"""How many times as many logins may fail for one authkey as from one address. With equal rates, a few seconds of wrong
guesses would lock out the authkey's owner."""

MAX_REMEMBERED = 10_000
"""How many addresses, and how many authkeys, are remembered."""


class LoginThrottle:
    """Rate-limits failed logins by client address and by authkey.

    Args:
        per_minute: Failed logins from one address, in the long run and at once; None for no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._addresses: TokenBuckets | None = None
        self._authkeys: TokenBuckets | None = None
        if per_minute is not None:
            burst = max(1, int(per_minute))
            self._addresses = TokenBuckets(per_minute / 60, burst, MAX_REMEMBERED)
            self._authkeys = TokenBuckets(AUTHKEY_FACTOR * per_minute / 60, AUTHKEY_FACTOR * burst, MAX_REMEMBERED)

    def is_exhausted(self, remote: str | None, authkey: str) -> bool:
        """Whether a login would be refused now.

        Args:
            remote: The client's address; None, for a unix socket, counts by authkey only.
            authkey: The authkey that the client claims.
        """
        return any(buckets.spent(name) for buckets, name in self._buckets(remote, authkey))

    def take(self, remote: str | None, authkey: str) -> bool:
        """Count a login as failed, until `give_back`; returns whether it may be tried."""
        return all(buckets.take(name) for buckets, name in self._buckets(remote, authkey))

    def give_back(self, remote: str | None, authkey: str) -> None:
        """Uncount a login that did not fail."""
        for buckets, name in self._buckets(remote, authkey):
            buckets.give_back(name)

    def __len__(self) -> int:
        """The number of addresses and authkeys that are remembered."""
        return sum(len(buckets) for buckets in (self._addresses, self._authkeys) if buckets is not None)

    def _buckets(self, remote: str | None, authkey: str) -> list[tuple[TokenBuckets, Hashable]]:
        found: list[tuple[TokenBuckets, Hashable]] = []
        if self._addresses is not None and remote is not None:
            found.append((self._addresses, client_network(remote)))
        if self._authkeys is not None:
            found.append((self._authkeys, _digest(authkey)))
        return found


def _digest(authkey: str) -> bytes:
    """A fixed-size stand-in for an authkey: clients choose its length, and thousands of them are remembered."""
    return hashlib.blake2b(authkey.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class LoginDeadline:
    """Closes connections that have not logged in in time. One timer serves all of them.

    Args:
        seconds: How long each connection has from its WELCOME.
        logged_in: Tells whether a connection has logged in.
    """

    def __init__(self, seconds: float, logged_in: Callable[[ServerConnection], bool]) -> None:
        self._seconds = seconds
        self._logged_in = logged_in
        # All have the same time, so they are due in the order in which they came.
        self._waiting: deque[tuple[float, ref[ServerConnection]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: ServerConnection) -> None:
        """Start the time of a connection, on its WELCOME."""
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + self._seconds, ref(connection)))
        if self._timer is None:
            self._timer = loop.call_at(self._waiting[0][0], self._close_overdue)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()

    def _close_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        # Timers may run early by the clock's resolution.
        now = loop.time() + 0.001
        while self._waiting and self._waiting[0][0] <= now:
            connection = self._waiting.popleft()[1]()
            if connection is not None and not connection.closed and not self._logged_in(connection):
                reason = f"no login within {self._seconds:g} s"
                connection.log.add("no login", f"closed: {reason}")
                connection.close(CloseCode.POLICY_VIOLATION, reason)
        self._timer = loop.call_at(self._waiting[0][0], self._close_overdue) if self._waiting else None
