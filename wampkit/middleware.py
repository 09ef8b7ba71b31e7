"""The one list: how middlewares are folded around a handler, and the two gates that need nothing else.

A middleware is a function `(message, call_next)`, or an object with one or both of two methods: `connect`, which
sees the handshake before there is a socket, and `message`, which sees each CALL, SUBSCRIBE, UNSUBSCRIBE and
PUBLISH. The list is read from the top: the first is the outermost. Either kind of object in the app's list may have
a third method, `lifespan(app)`, an async context manager that is entered when the app starts and left when it stops.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import urlsplit

from aiohttp import web

from .connection import Connection
from .errors import DeclarationError
from .incoming import Incoming

__all__ = [
    "AllowOrigins",
    "BlockAddresses",
    "CallNext",
    "ConnectMiddleware",
    "MessageMiddleware",
    "Middleware",
    "fold",
    "middleware_name",
    "split",
]

CallNext: TypeAlias = Callable[[Incoming], Awaitable[Any]]
"""The rest of the way to the handler. For a call it returns the handler's result."""


@runtime_checkable
class ConnectMiddleware(Protocol):
    """Acts on the handshake, before the upgrade."""

    async def connect(self, connection: Connection) -> str | None:
        """Look at `connection.request`; fill `connection.attributes`, or raise to refuse: an
        `aiohttp.web.HTTPException` with its status, or a `WampError` with 403 and its description. It may return
        a sentence about what it found, without secrets, for who looks into why somebody is let in."""


@runtime_checkable
class MessageMiddleware(Protocol):
    """Acts on each message."""

    async def message(self, message: Incoming, call_next: CallNext) -> Any:
        """Pass on with `await call_next(message)`, change with `message.replace(...)`, answer a call by returning
        without `call_next`, or refuse by raising `WampError`."""


Middleware: TypeAlias = ConnectMiddleware | MessageMiddleware | Callable[[Any, Any], Awaitable[Any]]


def middleware_name(middleware: Any) -> str:
    """What a middleware is called in listings and errors."""
    name = getattr(middleware, "__qualname__", None)
    return name if isinstance(name, str) else type(middleware).__qualname__


def split(middlewares: Iterable[Any], owner: str, *, gates: bool) -> tuple[list[Any], list[Any]]:
    """The handshake's functions and the messages' functions of one list, in its order.

    Args:
        middlewares: The list as declared.
        owner: Who declared it, for errors.
        gates: Whether handshakes pass here; they do only at the app.

    Raises:
        DeclarationError: An entry is no middleware, or acts on handshakes where none pass.
    """
    connects: list[Any] = []
    messages: list[Any] = []
    for middleware in middlewares:
        name = middleware_name(middleware)
        if inspect.isclass(middleware):
            raise DeclarationError(f"{owner}: middleware {name} is a class; put an instance into the list: {name}(...)")
        connect = getattr(middleware, "connect", None)
        message = getattr(middleware, "message", None)
        if connect is None and message is None:
            if not callable(middleware):
                raise DeclarationError(f"{owner}: {middleware!r} is no middleware; it needs connect or message")
            message = middleware
        if connect is not None and not gates and message is None:
            raise DeclarationError(f"{owner}: middleware {name} acts on handshakes; put it into App(middlewares=[...])")
        if connect is not None and gates:
            connects.append(_checked(connect, f"{owner}: {name}.connect", 1))
        if message is not None:
            messages.append(_checked(message, f"{owner}: middleware {name}", 2))
    return connects, messages


def _checked(function: Any, label: str, count: int) -> Any:
    target = function if inspect.isroutine(function) else type(function).__call__
    if not inspect.iscoroutinefunction(inspect.unwrap(target)) and not inspect.iscoroutinefunction(target):
        raise DeclarationError(f"{label} must be async def")
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        wanted = "(connection)" if count == 1 else "(message, call_next)"
        raise DeclarationError(f"{label} must take {wanted}") from None
    return function


def fold(messages: Iterable[Any], innermost: CallNext) -> CallNext:
    """One function that passes a message through all middlewares, the first outermost, to `innermost`."""
    chain = innermost
    for middleware in reversed(list(messages)):
        chain = _link(middleware, chain)
    return chain


def _link(middleware: Any, call_next: CallNext) -> CallNext:
    return lambda message: middleware(message, call_next)


class BlockAddresses:
    """Refuses clients by their address with HTTP 403.

    Args:
        *networks: IPv4 or IPv6 addresses and networks, such as `203.0.113.7` or `203.0.113.0/24`. An IPv4-mapped
            IPv6 address counts as the IPv4 address.

    Raises:
        DeclarationError: One of them is no address and no network.
    """

    def __init__(self, *networks: str) -> None:
        try:
            self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]
        except ValueError as error:
            raise DeclarationError(f"BlockAddresses: {error}") from None

    async def connect(self, connection: Connection) -> None:
        """Refuse a blocked address, and one that cannot be read."""
        remote = connection.request.remote
        if remote is None:  # a unix socket has no address
            return
        try:
            address = ipaddress.ip_address(remote.partition("%")[0])
        except ValueError:
            raise web.HTTPForbidden(text="the address of this client cannot be read") from None
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in self._networks):
            raise web.HTTPForbidden(text="this address may not connect")


class AllowOrigins:
    """Lets in web pages of the listed origins only and refuses the rest with HTTP 403.

    Args:
        *origins: Scheme, host and port as a browser sends them: `https://example.com`, `http://localhost:3000`.
        allow_missing: Whether clients that send no Origin, which no browser does, are let in.

    Raises:
        DeclarationError: One of them is no origin.
    """

    def __init__(self, *origins: str, allow_missing: bool = False) -> None:
        self._origins = frozenset(_normal_origin(origin) for origin in origins)
        self._allow_missing = allow_missing

    async def connect(self, connection: Connection) -> None:
        """Compare the header as it is: an origin is a text of one form, and whatever differs is another origin."""
        given = connection.request.headers.getall("Origin", [])
        if not given and self._allow_missing:
            return
        if len(given) != 1 or given[0] not in self._origins:
            raise web.HTTPForbidden(text="pages of this origin may not connect")


def _normal_origin(origin: str) -> str:
    try:
        parts = urlsplit(origin.lower())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    rest = parts.path + parts.query + parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or rest or "@" in parts.netloc:
        raise DeclarationError(f"AllowOrigins: {origin!r} is no origin; write scheme://host or scheme://host:port")
    default = {"http": 80, "https": 443}[parts.scheme]
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
    try:
        host = host if host.startswith("[") else host.encode("idna").decode()
    except UnicodeError:
        raise DeclarationError(f"AllowOrigins: {origin!r} has no valid host name") from None
    return f"{parts.scheme}://{host}" + ("" if port in (None, default) else f":{port}")
