"""How many clients may be there at once, in all and from one address."""

from __future__ import annotations

from collections import Counter

from aiohttp import web

from .addresses import owner_of

__all__ = ["Places"]

RETRY = {"Retry-After": "1"}


class Places:
    """Counts those who are inside, handshakes included. A unix socket has no address: its clients count in all only.

    Args:
        most: How many there may be in all, or None.
        most_per_address: How many there may be from one IPv4 address or IPv6 network of /64, or None.
    """

    def __init__(self, most: int | None, most_per_address: int | None) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._inside = 0
        self._by_address: Counter[str] = Counter()

    def enter(self, address: str | None) -> None:
        """Take a place, which `leave` gives back.

        Raises:
            aiohttp.web.HTTPServiceUnavailable: There is none left.
            aiohttp.web.HTTPTooManyRequests: There is none left for this address.
        """
        if self._most is not None and self._inside >= self._most:
            raise web.HTTPServiceUnavailable(text="the server has as many clients as it takes", headers=RETRY)
        owner = self._owner(address)
        if self._most_per_address is not None and owner is not None:
            if self._by_address[owner] >= self._most_per_address:
                raise web.HTTPTooManyRequests(text="there are too many connections from this address", headers=RETRY)
            self._by_address[owner] += 1
        self._inside += 1

    def leave(self, address: str | None) -> None:
        """Give a place back."""
        self._inside -= 1
        owner = self._owner(address)
        if owner is None:
            return
        if self._by_address[owner] > 1:
            self._by_address[owner] -= 1
        else:
            del self._by_address[owner]

    def _owner(self, address: str | None) -> str | None:
        return None if self._most_per_address is None else owner_of(address)
