"""Bounds on handshakes: connections in all and from one address, and the time that a handshake may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType

from aiohttp import web

from ..connection.sockets import peer_has_closed
from ..networks import client_network

__all__ = ["ClientLeft", "ConnectionLimiter", "Handshakes"]

RETRY = {"Retry-After": "1"}


class ConnectionLimiter:
    """Enforces `Limits.connections` and `connections_per_address`; handshakes count too.

    Clients on a unix socket have no address and count in all only.

    Args:
        most: Connections in all, or None for any number.
        most_per_address: Connections from one IPv4 address or IPv6 network of /64, or None for any number.
    """

    def __init__(self, most: int | None, most_per_address: int | None) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._count = 0
        self._by_address: Counter[str] = Counter()

    def acquire(self, address: str | None) -> None:
        """Count one more connection, until `release`.

        Raises:
            aiohttp.web.HTTPServiceUnavailable: There are too many in all.
            aiohttp.web.HTTPTooManyRequests: There are too many from this address.
        """
        if self._most is not None and self._count >= self._most:
            raise web.HTTPServiceUnavailable(text="the server has as many clients as it takes", headers=RETRY)
        owner = self._owner(address)
        if self._most_per_address is not None and owner is not None:
            if self._by_address[owner] >= self._most_per_address:
                raise web.HTTPTooManyRequests(text="there are too many connections from this address", headers=RETRY)
            self._by_address[owner] += 1
        self._count += 1

    def release(self, address: str | None) -> None:
        """Count one connection less."""
        self._count -= 1
        owner = self._owner(address)
        if owner is None:
            return
        if self._by_address[owner] > 1:
            self._by_address[owner] -= 1
        else:
            del self._by_address[owner]

    def _owner(self, address: str | None) -> str | None:
        return None if self._most_per_address is None else client_network(address)


LOOK = 0.2
"""Seconds between two looks at whether the clients are still there."""


class ClientLeft(Exception):
    """The client has gone during its handshake."""


class Handshakes:
    """Cancels what a handshake waits for once its client has gone or its time is over.

    aiohttp does not cancel a handler whose client leaves, and tells it nothing.
    """

    def __init__(self) -> None:
        self._waiting: set[_Wait] = set()
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, request: web.Request, seconds: float | None = None) -> _Wait:
        """Around what may wait in the running task: a context manager.

        Args:
            request: The handshake.
            seconds: For how long it may wait, or None for as long as the client does.

        Raises:
            ClientLeft: On leaving the context, when the client has gone.
            aiohttp.web.HTTPServiceUnavailable: Likewise, when the time is over.
        """
        return _Wait(self, request, seconds)

    def close(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _add(self, wait: _Wait) -> None:
        self._waiting.add(wait)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _remove(self, wait: _Wait) -> None:
        self._waiting.discard(wait)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._waiting:
            each.look(loop.time())
        self._timer = loop.call_later(LOOK, self._look) if self._waiting else None


class _Wait:
    """One handshake that may wait."""

    __slots__ = ("_due", "_error", "_handshakes", "_request", "_seconds", "_task")

    def __init__(self, handshakes: Handshakes, request: web.Request, seconds: float | None) -> None:
        self._handshakes = handshakes
        self._request = request
        self._seconds = seconds
        self._due = 0.0
        self._task: asyncio.Task[object] | None = None
        self._error: Exception | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._seconds is not None:
            self._due = asyncio.get_running_loop().time() + self._seconds
        self._handshakes._add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handshakes._remove(self)
        if self._error is None or self._task is None:
            return
        if self._task.uncancel() > 0 and isinstance(error, asyncio.CancelledError):
            return  # the server stops, too
        raise self._error from None

    def look(self, now: float) -> None:
        """Cancel it if nothing can come of it any more."""
        if self._error is not None or self._task is None:
            return
        transport = self._request.transport
        if transport is None or peer_has_closed(transport):
            self._error = ClientLeft()
        elif self._seconds is not None and now >= self._due:
            text = f"the handshake took longer than {self._seconds:g} s"
            self._error = web.HTTPServiceUnavailable(text=text, headers={"Retry-After": "1"})
        else:
            return
        self._task.cancel()
