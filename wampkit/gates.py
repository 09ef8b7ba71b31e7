"""The gates that need nothing but the handshake: the client's address, the host it asked for, the page it comes from.

Each refuses with HTTP 403. What the client reads says what was refused; why in particular stands in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from aiohttp import WSCloseCode

from .addresses import UNIX, Address, Networks, read_address
from .connection import Connection
from .errors import DeclarationError, quote
from .hosts import HostRule, default_port, is_loopback, read_host
from .origins import SAME, Origins
from .refusals import Refused

__all__ = ["AllowAddresses", "AllowHosts", "AllowOrigins", "BlockAddresses", "LoopbackHosts", "arranged"]

NOT_THIS_ADDRESS = "this address may not connect"
SHOWN = 20
"""Networks that a description names one by one."""

NOT_THIS_HOST = "this server does not answer to that host name"


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


# ---- hosts


class AllowHosts:
    """Lets in clients that asked for one of some hosts: a page whose DNS name was pointed here asks for its own.

    Args:
        *hosts: Names and addresses as in a URL: `example.com`, `*.example.com` for all names below it, `127.0.0.1`,
            `[::1]`. Without a port any port will do; `example.com:8443` is that port alone.

    Raises:
        DeclarationError: One of them is no host, or there is none.
    """

    def __init__(self, *hosts: str) -> None:
        if not hosts:
            raise DeclarationError("AllowHosts() would let nobody in; name the hosts that clients connect to")
        try:
            self._rules = [HostRule(host) for host in hosts]
        except (ValueError, AttributeError) as error:
            raise DeclarationError(f"AllowHosts: {error}") from None

    async def connect(self, connection: Connection) -> str:
        """Refuse what was sent to another host."""
        host, port = _host_of(connection)
        if not any(rule.matches(host, port) for rule in self._rules):
            raise Refused(NOT_THIS_HOST, f"{quote(host)} port {port} is none of {self._listed()}")
        return f"{quote(host)} port {port} is in the list"

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        return f"lets in who asks for {self._listed()}"

    def _listed(self) -> str:
        return ", ".join(rule.text for rule in self._rules)


class LoopbackHosts:
    """Keeps pages of the internet out of a server for development: `wampkit run` puts it there.

    Such a page can point its own DNS name to 127.0.0.1 and be of the same origin then; but its host name gives it away.
    """

    async def connect(self, connection: Connection) -> str:
        """Refuse a page that asked for a host which is not this machine by name."""
        if "Origin" not in connection.request.headers:
            return "no Origin came, so that this is no page"
        host, _ = _host_of(connection)
        if not is_loopback(host):
            why = f"{quote(host)} is no name of this machine; if it is one of yours, name it in AllowHosts"
            raise Refused(NOT_THIS_HOST, why)
        return f"{quote(host)} is this machine"

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        return "lets in pages that asked for localhost, 127.0.0.1 or [::1]"


def _host_of(connection: Connection) -> tuple[str, int]:
    """The host and port that a client asked for. Raises Refused where that cannot be told."""
    try:
        host, port = read_host(connection.request.headers.getall("Host", []))
    except ValueError as error:
        raise Refused(NOT_THIS_HOST, str(error)) from None
    return host, port or default_port("https" if connection.secure else "http") or 0


# ---- origins


class AllowOrigins:
    """Lets in web pages of the listed origins only.

    Without it in an app's list, pages of the server's own origin may connect, and clients that are no browsers.

    Args:
        *origins: Scheme, host and port: `https://example.com`, `http://localhost:3000`; `https://*.example.com` for
            all names below a host, itself not included; "same-origin" for pages that come from the very host and
            port that they connect to; or "*" for the pages of any site, which turns the check off. A bare host such as
            `example.com` or `127.0.0.1`, "null" and "file://" mean a header of that very text: old clients that are no
            browsers send such. Of these "null" is nearly as good as "*", as any site's page can send it from a frame.
        allow_missing: Whether clients that send no Origin, which every browser does, are let in.

    Raises:
        DeclarationError: One of them is no origin, or nobody could get in.
    """

    def __init__(self, *origins: str, allow_missing: bool = False) -> None:
        if not origins and not allow_missing:
            raise DeclarationError('AllowOrigins() would let nobody in; name origins, or "same-origin"')
        try:
            self._origins = Origins(origins)
        except ValueError as error:
            raise DeclarationError(f"AllowOrigins: {error}") from None
        self._allow_missing = allow_missing

    @property
    def any(self) -> bool:
        """Whether the pages of any site may connect."""
        return self._origins.any

    async def connect(self, connection: Connection) -> str:
        """Compare the header as it is: an origin is a text of one form, and whatever differs is another origin."""
        headers = connection.request.headers
        origins, hosts = headers.getall("Origin", []), headers.getall("Host", [])
        verdict = self._origins.judge(origins, hosts, secure=connection.secure)
        if verdict.allowed:
            return verdict.why
        if not verdict.missing:
            raise Refused("pages of this origin may not connect", verdict.why)
        if not self._allow_missing:
            raise Refused("clients without an Origin may not connect", f"{verdict.why}; allow_missing=True lets it in")
        return "no Origin came, so that this is no page"

    def describe(self) -> str:
        """What it does, for `wampkit check`."""
        if self.any:
            return "lets in the pages of any site"
        shown = {SAME: "the server's own origin"}
        pages = ", ".join(shown.get(each, each) for each in self._origins if each not in self._origins.literal)
        kinds = [f"pages of {pages}"] if pages else []
        kinds += [f"the Origin {each!r}" for each in self._origins.literal]
        return f"lets in {' and '.join([*kinds, *(['clients without Origin'] if self._allow_missing else [])])}"


# ---- the order


def arranged(middlewares: Iterable[Any], *, loopback_only: bool = False) -> tuple[Any, ...]:
    """An app's list with the gates that it has by default: behind those by address and host that it begins with.

    So a foreign page costs no look-up of a session, and a blocked address not even a look at its origin.

    Args:
        middlewares: The list as declared.
        loopback_only: Whether pages must have asked for a host that is this machine by name.
    """
    declared = tuple(middlewares)
    own: list[Any] = []
    if loopback_only and not _has(declared, AllowHosts):
        own.append(LoopbackHosts())
    if not _has(declared, AllowOrigins):
        own.append(AllowOrigins(SAME, allow_missing=True))
    leading = _leading(declared, lambda each: isinstance(each, _AddressGate | AllowHosts))
    return (*declared[:leading], *own, *declared[leading:])


def _has(middlewares: Iterable[Any], kind: type) -> bool:
    return any(isinstance(each, kind) for each in middlewares)


def _leading(items: tuple[Any, ...], matches: Callable[[Any], bool]) -> int:
    """How many items at the beginning match."""
    return next((index for index, each in enumerate(items) if not matches(each)), len(items))
