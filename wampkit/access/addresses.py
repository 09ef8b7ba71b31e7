"""Gates by the client's address: `AllowAddresses` and `BlockAddresses`.

The gates that need nothing but the handshake: the client's address, the host it asked for, the page it comes from.

Each refuses with HTTP 403. What the client reads says what was refused; why in particular stands in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

from aiohttp import WSCloseCode

from ..connection.connection import Connection
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote
from ..networks import UNIX, Address, Networks, read_address

__all__ = ["AllowAddresses", "BlockAddresses"]

NOT_THIS_ADDRESS = "this address may not connect"

SHOWN = 20
"""Networks that a description names one by one."""


# ---- addresses


class _AddressGate:
    """What the two gates by address share: a set of networks, and the running apps that they stand in."""

    def __init__(self, *networks: str) -> None:
        try:
            self._networks = Networks(networks)
        except ValueError as error:
            raise DeclarationError(f"{type(self).__name__}: {error}") from None
        self._lock = threading.Lock()
        self._apps: dict[Any, asyncio.AbstractEventLoop] = {}

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Know a running app, so that its connections can be closed."""
        self._apps[app] = asyncio.get_running_loop()
        try:
            yield
        finally:
            del self._apps[app]

    async def connect(self, connection: Connection) -> str:
        """Refuse by address; one that cannot be read is refused too."""
        try:
            address = _address_of(connection)
        except ValueError:
            why = f"{quote(connection.remote)} is no address"
            raise Refused("the address of this client cannot be read", why) from None
        entry = self._networks.find(address)
        shown = "a unix socket" if address is None else str(address)
        why = f"{shown} is in the list, as {entry}" if entry is not None else f"{shown} is not in the list"
        if self._refuses(entry):
            raise Refused(NOT_THIS_ADDRESS, why)
        return why

    def _refuses(self, entry: str | None) -> bool:
        """Whether somebody is kept out who is held by this entry of the networks, or by none."""
        raise NotImplementedError

    def _changed(self) -> None:
        """Close the connections of those who are kept out now."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for app, loop in list(self._apps.items()):
            if loop is here:
                self._sweep(app)
            else:
                with contextlib.suppress(RuntimeError):  # that loop has just been closed, and its app with it
                    loop.call_soon_threadsafe(self._sweep, app)

    def _sweep(self, app: Any) -> None:
        if app not in self._apps:
            return
        for connection in (*app.connections, *app.connections.arriving):
            with contextlib.suppress(ValueError):  # it is still arriving, and `connect` will refuse it
                if self._refuses(self._networks.find(_address_of(connection))):
                    connection.close(WSCloseCode.POLICY_VIOLATION, NOT_THIS_ADDRESS)


def _address_of(connection: Connection) -> Address | None:
    return None if connection.remote is None else read_address(connection.remote)


class BlockAddresses(_AddressGate):
    """Refuses clients by their address.

    Args:
        *networks: IPv4 or IPv6 addresses and networks, such as `203.0.113.7` or `203.0.113.0/24`, or "unix" for
            the peers of unix sockets. An IPv4-mapped IPv6 address counts as the IPv4 address; zones do not count.

    Raises:
        DeclarationError: One of them is no address and no network.
    """

    def block(self, *networks: str) -> None:
        """Refuse these too from now on, and close their connections with 1008; from any thread.

        Other processes, as those of `wampkit run --workers`, have lists of their own.

        Raises:
            ValueError: One of them is no address and no network; nothing is changed then.
        """
        with self._lock:
            self._networks.add(*networks)
        self._changed()

    def unblock(self, *networks: str) -> None:
        """Refuse these no longer; what was not blocked is ignored.

        Raises:
            ValueError: One of them is no address and no network, or lies in a wider network that stays blocked.
        """
        with self._lock:
            self._networks.remove(*networks)

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        return f"refuses {_listed(self._networks) or 'nobody yet'}"

    def _refuses(self, entry: str | None) -> bool:
        return entry is not None


class AllowAddresses(_AddressGate):
    """Lets in clients of some addresses only.

    Args:
        *networks: IPv4 or IPv6 addresses and networks, such as `10.0.0.0/8`, or "unix" for the peers of unix
            sockets. An IPv4-mapped IPv6 address counts as the IPv4 address; zones do not count.

    Raises:
        DeclarationError: One of them is no address and no network.
    """

    def allow(self, *networks: str) -> None:
        """Let these in too from now on; from any thread.

        Raises:
            ValueError: One of them is no address and no network; nothing is changed then.
        """
        with self._lock:
            self._networks.add(*networks)

    def disallow(self, *networks: str) -> None:
        """Let these in no longer, and close their connections with 1008; what was not allowed is ignored.

        Other processes, as those of `wampkit run --workers`, have lists of their own.

        Raises:
            ValueError: One of them is no address and no network, or lies in a wider network that stays allowed.
        """
        with self._lock:
            self._networks.remove(*networks)
        self._changed()

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        return f"lets in {_listed(self._networks) or 'nobody yet'}"

    def _refuses(self, entry: str | None) -> bool:
        return entry is None


def _listed(networks: Iterable[str]) -> str:
    shown = ["unix sockets" if each == UNIX else each for each in networks]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return ", ".join(shown[:SHOWN]) + more
