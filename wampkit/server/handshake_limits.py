"""Bounds on handshakes: connections in all and from one address, and the time that a handshake may take."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType

from aiohttp import web

from ..connection.sockets import peer_has_closed
from ..dispatch.middleware import unavailable
from ..networks import client_network

__all__ = ["ClientDisconnected", "ConnectionLimiter", "PendingHandshakes"]


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
            raise unavailable("the server has as many clients as it takes")
        owner = self._owner(address)
        if self._most_per_address is not None and owner is not None:
            if self._by_address[owner] >= self._most_per_address:
                raise web.HTTPTooManyRequests(
                    text="there are too many connections from this address", headers={"Retry-After": "1"}
                )
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


CHECK_INTERVAL = 0.2
"""Seconds between two checks whether the clients are still connected."""


class ClientDisconnected(Exception):
    """The client disconnected during its handshake."""


class PendingHandshakes:
    """Cancels a handshake when its client disconnects or its time is over.

    aiohttp does not cancel a handler whose client disconnects, and does not tell it.
    """

    def __init__(self) -> None:
        self._pending: set[_Pending] = set()
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, request: web.Request, timeout: float | None = None) -> _Pending:
        """Context manager around code of the running task that may wait.

        Args:
            request: The handshake.
            timeout: Seconds until it is refused, or None to wait as long as the client is connected.

        Raises:
            ClientDisconnected: On leaving the context, if the client disconnected.
            aiohttp.web.HTTPServiceUnavailable: On leaving the context, if the time is over.
        """
        return _Pending(self, request, timeout)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _add(self, wait: _Pending) -> None:
        self._pending.add(wait)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check)

    def _remove(self, wait: _Pending) -> None:
        self._pending.discard(wait)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        for each in self._pending:
            each.check(loop.time())
        self._timer = loop.call_later(CHECK_INTERVAL, self._check) if self._pending else None


class _Pending:
    """One handshake inside `PendingHandshakes.wait`."""

    __slots__ = ("_deadline", "_error", "_pending_handshakes", "_request", "_task", "_timeout")

    def __init__(self, handshakes: PendingHandshakes, request: web.Request, timeout: float | None) -> None:
        self._pending_handshakes = handshakes
        self._request = request
        self._timeout = timeout
        self._deadline = 0.0
        self._task: asyncio.Task[object] | None = None
        self._error: Exception | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._timeout is not None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout
        self._pending_handshakes._add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pending_handshakes._remove(self)
        if self._error is None or self._task is None:
            return
        if self._task.uncancel() > 0 and isinstance(error, asyncio.CancelledError):
            return  # the server stops, too
        raise self._error from None

    def check(self, now: float) -> None:
        """Cancel the handshake if its client disconnected or its time is over."""
        if self._error is not None or self._task is None:
            return
        transport = self._request.transport
        if transport is None or peer_has_closed(transport):
            self._error = ClientDisconnected()
        elif self._timeout is not None and now >= self._deadline:
            self._error = unavailable(f"the handshake took longer than {self._timeout:g} s")
        else:
            return
        self._task.cancel()
