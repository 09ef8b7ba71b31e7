"""The one list: what may stand in it, and how middlewares are folded around a handler.

A middleware is a function `(message, call_next)`, or an object with one or both of two methods: `connect`, which
sees the handshake before there is a socket, and `message`, which sees each CALL, SUBSCRIBE, UNSUBSCRIBE and
PUBLISH. The list is read from the top: the first is the outermost. Either kind of object in the app's list may have
a third method, `lifespan(app)`, an async context manager that is entered when the app starts and left when it stops,
and a fourth, `describe()`, which says in a few words what it does, for `wampkit check`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from .connection import Connection
from .errors import DeclarationError
from .incoming import Incoming
from .router import listed

__all__ = [
    "CallNext",
    "ConnectMiddleware",
    "MessageMiddleware",
    "Middleware",
    "fold",
    "middleware_name",
    "middlewares_of",
    "split",
]

CallNext: TypeAlias = Callable[[Incoming], Awaitable[Any]]
"""The rest of the way to the handler. For a call it returns the handler's result."""


@runtime_checkable
class ConnectMiddleware(Protocol):
    """Acts on the handshake, before the upgrade."""

    async def connect(self, connection: Connection) -> str | None:
        """Look at `connection.request`; fill `connection.attributes`, or raise to refuse: an
        `aiohttp.web.HTTPException` with its status, a `Refused` with 403 and a reason for the log, or a `WampError`
        with 403 and its description. What it returns is a note of what it found, which `wampkit check` shows: without
        secrets, and with whatever the peer sent quoted."""


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


def middlewares_of(given: Any, owner: str, *, gates: bool) -> tuple[Any, ...]:
    """A list of middlewares as it was declared.

    Args:
        given: What was declared.
        owner: Who declared it, for errors.
        gates: Whether handshakes pass here; they do only at the app.

    Raises:
        DeclarationError: It is no list, or an entry is no middleware, or acts on handshakes where none pass.
    """
    middlewares = listed(given, owner)
    split(middlewares, owner, gates=gates)
    return middlewares


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
        if hasattr(middleware, "__middleware_version__"):
            raise DeclarationError(
                f"{owner}: {name} is a middleware of aiohttp; put it into web.Application(middlewares=[...]), as "
                "those of wampkit take (message, call_next)"
            )
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
