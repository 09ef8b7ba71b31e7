"""Gates by the client's address: `AllowAddresses` and `BlockAddresses`, each a list that can change while the app runs.

A refused client reads what was refused, with HTTP 403; which entry of the list decided stands in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

from ..connection.connection import Connection
from ..dispatch.middleware import Refused
from ..errors import DeclarationError, quote
from ..networks import UNIX, Networks, describe_address, read_peer
from ..protocol.websocket import CloseCode

__all__ = ["AddressGate", "AllowAddresses", "BlockAddresses"]

NOT_THIS_ADDRESS = "this address may not connect"

SHOWN = 20
"""Networks that a description names one by one."""


class AddressGate:
    """The base of the gates by address: a set of networks, and the running apps whose connections it judges."""

    def __init__(self, *networks: str) -> None:
        try:
            self._networks = Networks(networks)
        except ValueError as error:
            raise DeclarationError(f"{type(self).__name__}: {error}") from None
        self._lock = threading.Lock()
        self._apps: dict[Any, asyncio.AbstractEventLoop] = {}

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Remember a running app, so that a change of the list can close its connections."""
        self._apps[app] = asyncio.get_running_loop()
        try:
            yield
        finally:
            del self._apps[app]

    async def connect(self, connection: Connection) -> str:
        """Check the client's address; one that cannot be read is refused as well. Raises Refused."""
        try:
            address = read_peer(connection.remote)
        except ValueError:
            why = f"{quote(connection.remote)} is no address"
            raise Refused("the address of this client cannot be read", why) from None
        entry = self._networks.find(address)
        place = f"in the list, as {entry}" if entry is not None else "not in the list"
        why = f"{describe_address(address)} is {place}"
        if self._refuses(entry):
            raise Refused(NOT_THIS_ADDRESS, why)
        return why

    def _refuses(self, entry: str | None) -> bool:
        """Whether a client is refused whose address is in this entry of the list, or in none."""
        raise NotImplementedError

    def _add(self, networks: Iterable[str]) -> None:
        with self._lock:
            self._networks.add(*networks)

    def _remove(self, networks: Iterable[str]) -> None:
        with self._lock:
            self._networks.remove(*networks)

    def _close_refused(self) -> None:
        """Close the connections that the list refuses now, on the loop of each app; callable from any thread."""
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for app, loop in list(self._apps.items()):
            if loop is here:
                self._close_refused_of(app)
            else:
                with contextlib.suppress(RuntimeError):  # that loop has just been closed, and its app with it
                    loop.call_soon_threadsafe(self._close_refused_of, app)

    def _close_refused_of(self, app: Any) -> None:
        if app not in self._apps:
            return
        for connection in (*app.connections, *app.connections.arriving):
            with contextlib.suppress(ValueError):  # it is still arriving, and `connect` will refuse it
                if self._refuses(self._networks.find(read_peer(connection.remote))):
                    connection.close(CloseCode.POLICY_VIOLATION, NOT_THIS_ADDRESS)

    def _listed(self) -> str:
        shown = ["unix sockets" if each == UNIX else each for each in self._networks] or ["no address yet"]
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        return ", ".join(shown[:SHOWN]) + more


class BlockAddresses(AddressGate):
    """Refuses clients by their address.

    Args:
        *networks: IPv4 or IPv6 addresses and networks, such as `203.0.113.7` or `203.0.113.0/24`, or "unix" for
            the peers of unix sockets. An IPv4-mapped IPv6 address counts as the IPv4 address; zones do not count.

    Raises:
        DeclarationError: One of them is no address and no network.
    """

    def block(self, *networks: str) -> None:
        """Refuse these too from now on, and close their connections with 1008; callable from any thread.

        Other processes, such as those of `wampkit run --workers`, have lists of their own.

        Raises:
            ValueError: One of them is no address and no network; nothing is changed then.
        """
        self._add(networks)
        self._close_refused()

    def unblock(self, *networks: str) -> None:
        """Stop refusing these; what was not blocked is ignored.

        Raises:
            ValueError: One of them is no address and no network, or lies in a wider network that stays blocked.
        """
        self._remove(networks)

    def describe(self) -> str:
        """A description for `wampkit check`."""
        return f"refuses {self._listed()}"

    def _refuses(self, entry: str | None) -> bool:
        return entry is not None


class AllowAddresses(AddressGate):
    """Lets in clients of the listed addresses only.

    Args:
        *networks: IPv4 or IPv6 addresses and networks, such as `10.0.0.0/8`, or "unix" for the peers of unix
            sockets. An IPv4-mapped IPv6 address counts as the IPv4 address; zones do not count.

    Raises:
        DeclarationError: One of them is no address and no network.
    """

    def allow(self, *networks: str) -> None:
        """Let these in too from now on; callable from any thread.

        Raises:
            ValueError: One of them is no address and no network; nothing is changed then.
        """
        self._add(networks)

    def disallow(self, *networks: str) -> None:
        """Stop letting these in, and close their connections with 1008; what was not allowed is ignored.

        Other processes, such as those of `wampkit run --workers`, have lists of their own.

        Raises:
            ValueError: One of them is no address and no network, or lies in a wider network that stays allowed.
        """
        self._remove(networks)
        self._close_refused()

    def describe(self) -> str:
        """A description for `wampkit check`."""
        return f"lets in {self._listed()}"

    def _refuses(self, entry: str | None) -> bool:
        return entry is None
