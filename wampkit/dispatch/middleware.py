"""Middlewares: what they see of a message, which shapes they have, and how they are folded around a handler.

A middleware is a function `(message, call_next)`, or an object with one or both of two methods: `connect`, which
sees the handshake before the upgrade, and `message`, which sees each CALL, SUBSCRIBE, UNSUBSCRIBE and PUBLISH. The
first of a list is the outermost. An object in the app's list may have two further methods: `lifespan(app)`, an async
context manager that is entered when the app starts and left when it stops, and `describe()`, which says in a few
words what the middleware does, for `wampkit check`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import msgspec
from aiohttp import web

from ..connection.connection import Connection
from ..errors import DeclarationError
from ..router import Route, as_middlewares

__all__ = [
    "Call",
    "CallNext",
    "Incoming",
    "Middleware",
    "Publish",
    "Refused",
    "Subscribe",
    "Unsubscribe",
    "fold",
    "middleware_name",
    "middlewares_of",
    "split_middlewares",
    "unavailable",
]


# ---- what middlewares see


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """The base of `Call`, `Subscribe`, `Unsubscribe` and `Publish`.

    Attributes:
        connection: The client that sent it.
        uri: The full URI of the procedure or topic.
        route: The route that the URI belongs to, or None if there is none; the message is refused then.
        variables: The values of the declared URI's variables.
    """

    connection: Connection
    uri: str
    route: Route | None
    variables: Mapping[str, str]

    @property
    def name(self) -> str:
        """The declared URI, such as `chat:{room}`: a label of few different values, for logs and metrics."""
        return self.route.declared if self.route is not None else "(unknown)"

    def replace(self, **changes: Any) -> Self:
        """Copy the message with other arguments or another event, for `call_next`.

        Raises:
            TypeError: `uri`, `route`, `connection` or `variables` is to change: the handler is chosen by now.
        """
        refused = changes.keys() & {"uri", "route", "connection", "variables"}
        if refused:
            raise TypeError(f"{', '.join(sorted(refused))} of a message cannot be replaced: the route is chosen by now")
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} from {self.connection.id}>"


class Call(Incoming, frozen=True, kw_only=True):
    """A CALL.

    Attributes:
        id: The call id, chosen by the client; any text.
        args: The arguments from JSON, not converted to the handler's types.
    """

    id: str
    args: list[Any]


class Subscribe(Incoming, frozen=True, kw_only=True):
    """A SUBSCRIBE."""


class Unsubscribe(Incoming, frozen=True, kw_only=True):
    """An UNSUBSCRIBE, or the end of a subscription whose connection ended."""


class Publish(Incoming, frozen=True, kw_only=True):
    """A PUBLISH.

    Attributes:
        event: The event from JSON, not converted to the handler's type.
        exclude_me: Whether the publisher asked not to receive it; None if it did not say.
        exclude: Session ids that do not receive it, or None.
        eligible: The only session ids that may receive it, or None for all.
    """

    event: Any
    exclude_me: bool | None
    exclude: list[str] | None
    eligible: list[str] | None


# ---- their shapes

CallNext: TypeAlias = Callable[[Incoming], Awaitable[Any]]
"""The next middleware, or the handler. For a CALL it returns the handler's result."""


@runtime_checkable
class ConnectMiddleware(Protocol):
    """Acts on the handshake, before the upgrade."""

    async def connect(self, connection: Connection) -> str | None:
        """Check `connection.request`, and fill `connection.attributes`.

        Returns:
            A note for `wampkit check`, or None: no secrets, and what the peer sent is quoted.

        Raises:
            aiohttp.web.HTTPException: Refuses the handshake with its status.
            Refused: Refuses it with 403, and a reason for the log.
            WampError: Refuses it with 403 and its description.
        """


@runtime_checkable
class MessageMiddleware(Protocol):
    """Acts on each message."""

    async def message(self, message: Incoming, call_next: CallNext) -> Any:
        """Return `await call_next(message)`, with `message.replace(...)` if it is to be changed.

        A CALL is answered by returning a result without `call_next`; raising `WampError` refuses any message.
        """


Middleware: TypeAlias = ConnectMiddleware | MessageMiddleware | Callable[[Any, Any], Awaitable[Any]]


class Refused(web.HTTPForbidden):
    """HTTP 403 for a handshake; raise it in a middleware's `connect`.

    Args:
        text: The text for the client.
        why: A further reason for the log. No secrets; quote the texts of a peer.
    """

    def __init__(self, text: str, why: str = "") -> None:
        super().__init__(text=text)
        self.why = why


def unavailable(text: str) -> web.HTTPServiceUnavailable:
    """HTTP 503 for a handshake, with the text for the client and Retry-After: 1, as the cause may soon be over."""
    return web.HTTPServiceUnavailable(text=text, headers={"Retry-After": "1"})


# ---- lists of them


def middleware_name(middleware: Any) -> str:
    """The name of a middleware in listings and errors."""
    name = getattr(middleware, "__qualname__", None)
    return name if isinstance(name, str) else type(middleware).__qualname__


def middlewares_of(given: Any, owner: str, *, gates: bool) -> tuple[Any, ...]:
    """Check a list of middlewares as it was declared.

    Args:
        given: The list.
        owner: The app or route that it belongs to, for errors.
        gates: Whether it may act on handshakes, as only the app's may.

    Raises:
        DeclarationError: It is no list, or an entry is no middleware, or acts on handshakes without `gates`.
    """
    middlewares = as_middlewares(given, owner)
    split_middlewares(middlewares, owner, gates=gates)
    return middlewares


def split_middlewares(middlewares: Iterable[Any], owner: str, *, gates: bool) -> tuple[list[Any], list[Any]]:
    """Split a list into the functions that act on handshakes and those that act on messages, each in order.

    Args:
        middlewares: The list.
        owner: The app or route that it belongs to, for errors.
        gates: Whether it may act on handshakes, as only the app's may.

    Raises:
        DeclarationError: An entry is no middleware, or acts on handshakes without `gates`.
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
    """A function that is `async` and takes `count` arguments. Raises DeclarationError if it is another."""
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
    """Fold middlewares around `innermost`, the first outermost: a function that passes a message through all."""
    chain = innermost
    for middleware in reversed(list(messages)):
        chain = _link(middleware, chain)
    return chain


def _link(middleware: Any, call_next: CallNext) -> CallNext:
    return lambda message: middleware(message, call_next)
