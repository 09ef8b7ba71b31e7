"""The console: what the socket's address shows in a browser, told by procedures of wampkit's own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import msgspec

from ..concurrency.background import BackgroundTask
from ..concurrency.threads import ThreadPools
from ..connection.connection import Connection
from ..connection.registry import Connections
from ..dispatch.compiler import CompiledProcedure, CompiledTopic
from ..dispatch.requirements import Rule, requires
from ..errors import NotFound
from ..protocol.extensions import RESERVED
from ..pubsub.broker import Deliver, Publication
from ..pubsub.registry import TopicRegistry
from ..pubsub.topics import Topics
from ..router import Declaration
from ..schema.routes import describe_route, middleware_names
from ..telemetry.counters import Counters
from .meter import Failure, Meter, shown
from .page import show_console

__all__ = ["Console", "Watched", "console_rules"]

LIVE = "wampkit:live"
"""The topic on which the figures are published while somebody looks."""

INTERVAL = 1.0
"""Seconds between two figures."""

MOST_FIGURES = 300

MOST_ROWS = 200

ROWS_A_TURN = 200

ROUTES_AT_ONCE = 50
"""As many descriptions as surely fit into what may wait for one client."""

Compiled = tuple[Iterable[CompiledProcedure], Iterable[CompiledTopic]]


class Watched(Protocol):
    """As much of a running app as the console shows."""

    @property
    def prefixes(self) -> Mapping[str, str]: ...

    @property
    def ident(self) -> str: ...

    @property
    def debug(self) -> bool: ...

    @property
    def javascript(self) -> bool: ...

    @property
    def cra(self) -> Any: ...

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> BackgroundTask: ...

    @property
    def connections(self) -> Connections: ...

    @property
    def topics(self) -> Topics: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def threads(self) -> ThreadPools: ...


class Console:
    """Tells what an app serves and how it fares, by procedures and a topic whose names begin with `wampkit:`.

    Args:
        app: The app.

    Attributes:
        meter: What counts messages, as the app's outermost middleware.
        page: What answers a browser that asks for the socket's path.
    """

    def __init__(self, app: Watched) -> None:
        self.meter = Meter()
        self.page = show_console
        self._app = app
        self._routes: Callable[[], list[dict[str, Any]]] = list
        self._figures: deque[dict[str, Any]] = deque(maxlen=MOST_FIGURES)
        self._registry: TopicRegistry | None = None

    def attach(self, registry: TopicRegistry) -> Deliver:
        """Send the figures to a registry's subscribers; returns what delivers publications to it, and counts them."""
        self._registry = registry
        return self.meter.counting(registry)

    def declarations(self, requires: tuple[Any, ...]) -> tuple[Declaration, ...]:
        """What is served for the console.

        Args:
            requires: The rules for all of it.
        """
        procedures: dict[str, Callable[..., Any]] = {
            "wampkit:console": self._console,
            "wampkit:routes": self._routes_from,
            "wampkit:connections": self._connections,
            "wampkit:connection": self._connection,
            "wampkit:topics": self._topics,
            "wampkit:failures": self._failures,
            "wampkit:failure": self._failure,
        }
        declared = [Declaration("procedure", uri, uri, function) for uri, function in procedures.items()]
        for each in (*declared, live := Declaration("topic", LIVE, LIVE)):
            each.requires = requires
        return *declared, live

    def describe(self, compiled: Compiled, middlewares: Iterable[Any]) -> None:
        """Take note of what the app serves; it is described when somebody asks.

        Args:
            compiled: The app's procedures and topics, ready to run, wampkit's own among them.
            middlewares: The app's middlewares.
        """
        routes = [each for table in compiled for each in table if not each.builtin]

        @functools.cache
        def describe() -> list[dict[str, Any]]:
            outer = middleware_names(middlewares, gates=True)[1]
            return [describe_route(each, outer) for each in routes]

        self._routes = describe

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """While the app runs, take the figures each second."""
        self.meter.begin(debug=self._app.debug)
        self._figures.clear()
        async with self._app.background("the console's clock", self._tick):
            yield

    async def _tick(self) -> None:
        registry = self._registry
        assert registry is not None
        while True:
            await asyncio.sleep(INTERVAL)
            figures = asdict(self.meter.take()) | self._now()
            self._figures.append(figures)
            if registry.count(LIVE):
                # Straight to this process's own subscribers: a broker would carry the figures of each to all.
                registry.deliver(Publication(LIVE, msgspec.json.encode(figures)))

    def _now(self) -> dict[str, Any]:
        app = self._app
        return {
            "connections": len(app.connections),
            "topics": len(app.topics) - (LIVE in app.topics),
            "failed": self.meter.failed,
            "threads": {name: getattr(app.threads.handlers, name) for name in ("running", "waiting", "held", "limit")},
            "counters": asdict(app.counters),
        }

    # ---- procedures

    async def _console(self) -> dict[str, Any]:
        """What the app is, and the figures of the last minutes."""
        from .. import __version__  # not there yet while the package is imported

        app = self._app
        return {
            "ident": app.ident,
            "version": __version__,
            "debug": app.debug,
            "login": app.cra is not None,
            "javascript": app.javascript,
            "prefixes": dict(app.prefixes),
            "interval": INTERVAL,
            "figures": list(self._figures),
            **self._now(),
        }

    async def _routes_from(self, offset: int = 0) -> dict[str, Any]:
        """Some of the procedures and topics, from the one with this index."""
        routes = self._routes()
        return {"total": len(routes), "rows": routes[max(offset, 0) :][:ROUTES_AT_ONCE]}

    async def _connections(
        self, search: str = "", order: str = "", offset: int = 0, limit: int = MOST_ROWS
    ) -> dict[str, Any]:
        """Some live connections: those that contain a text, by "queued", "subscriptions", "address" or "user"."""
        connections = list(self._app.connections)
        if not search and not order:
            window = _part(connections, offset, limit)
            return _told([_row(each) for each in window], len(connections), len(connections))
        found = await _found(connections, _row, search)
        if order in ("queued", "subscriptions"):
            found.sort(key=lambda row: -row[order])
        elif order in ("address", "user"):
            found.sort(key=lambda row: row[order] or "")
        return _told(_part(found, offset, limit), len(found), len(connections))

    async def _connection(self, id: str) -> dict[str, Any]:
        """One connection with its topics."""
        connection = self._app.connections.get(id)
        if connection is None:
            raise NotFound("this connection has ended")
        return _row(connection) | {"topics": [uri for uri in connection.topics if not _is_own(uri)][:MOST_ROWS]}

    async def _topics(self, search: str = "", offset: int = 0, limit: int = MOST_ROWS) -> dict[str, Any]:
        """Some of the topics that have subscribers, the fullest first."""
        topics = self._app.topics
        uris = [uri for uri in topics if not _is_own(uri)]
        found = await _found(uris, lambda uri: {"uri": uri, "subscribers": len(topics.get(uri, ()))}, search)
        found.sort(key=lambda row: (-row["subscribers"], row["uri"]))
        return _told(_part(found, offset, limit), len(found), len(uris))

    async def _failures(self, after: int = 0) -> list[dict[str, Any]]:
        """The last failures, the newest first, with a number above this; tracebacks are told one by one."""
        failures = [asdict(each) for each in self.meter.failures() if each.number > after]
        return [each | {"traceback": each["traceback"] is not None} for each in failures]

    async def _failure(self, number: int) -> Failure:
        """One failure with its traceback."""
        for each in self.meter.failures():
            if each.number == number:
                return each
        raise NotFound("this failure is no longer remembered")


def console_rules(console: Any, default: tuple[Rule, ...], cra: Any) -> tuple[Rule, ...]:
    """Who may use the console: whoever its own rule names, else whoever may use the app, who is logged in at least.

    Args:
        console: What the app's `console` says: True or rules.
        default: What the app requires of routes without a rule.
        cra: The app's logins by WAMP-CRA, or None.
    """
    if console is not True:
        return tuple(console)
    if default:
        return default
    return () if cra is None else (requires(),)


def _row(connection: Connection) -> dict[str, Any]:
    user = connection.user
    return {
        "id": connection.id,
        "address": connection.remote,
        "user": None if user is None else shown(user),
        "roles": sorted(map(shown, connection.roles)),
        "subscriptions": len(connection.subscriptions) - (LIVE in connection.subscriptions),
        "queued": connection.unsent,
        "dropped": connection.dropped,
    }


T = TypeVar("T")


async def _found(items: list[T], row: Callable[[T], dict[str, Any]], search: str) -> list[dict[str, Any]]:
    """The rows that contain a text. Looking at thousands leaves turns to the app's clients."""
    wanted = search.lower()
    found = []
    for index, item in enumerate(items):
        if index % ROWS_A_TURN == ROWS_A_TURN - 1:
            await asyncio.sleep(0)
        made = row(item)
        if not wanted or any(wanted in str(value).lower() for value in made.values() if value is not None):
            found.append(made)
    return found


def _part(rows: list[T], offset: int, limit: int) -> list[T]:
    start = max(offset, 0)
    return rows[start : start + max(0, min(limit, MOST_ROWS))]


def _told(rows: list[dict[str, Any]], found: int, total: int) -> dict[str, Any]:
    return {"total": total, "found": found, "rows": rows}


def _is_own(uri: str) -> bool:
    return uri.startswith(RESERVED)
