"""The console's procedures and topic: an app's routes, connections, topics, failures and figures."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec

from ..connection.connection import Connection
from ..dispatch.middleware import CallNext, Incoming
from ..dispatch.requirements import Rule, requires
from ..errors import NotFound
from ..protocol.extensions import RESERVED
from ..pubsub.broker import Deliver, Publication
from ..pubsub.registry import TopicRegistry
from ..router import Route
from ..schema.routes import describe_route, middleware_names
from ..server.runtime import Runtime
from ..server.settings import Settings
from .meter import Failure, Meter, as_text
from .page import show_console

__all__ = ["Console", "console_is_open"]

LIVE = "wampkit:live"
"""The topic on which the figures are published while it has subscribers."""

INTERVAL = 1.0
"""Seconds between two sets of figures."""

MAX_FIGURES = 300
"""Sets of figures that are kept."""

MAX_ROWS = 200
"""Rows in one answer, and rows that are searched without a pause for other clients."""

ROUTES_AT_ONCE = 50
"""Routes in one answer, so that it fits into the queue of one client."""


class Console:
    """Serves the console's procedures and topic, whose names begin with `wampkit:`."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._meter = Meter(debug=runtime.settings.debug)
        self.message: Callable[[Incoming, CallNext], Coroutine[Any, Any, Any]] = self._meter.message
        self.counting: Callable[[TopicRegistry], Deliver] = self._meter.counting
        self.page = show_console
        self._figures: deque[dict[str, Any]] = deque(maxlen=MAX_FIGURES)

    def routes(self) -> list[Route]:
        """The console's procedures and topic, all with the same rules."""
        procedures: dict[str, Callable[..., Any]] = {
            "wampkit:console": self._console,
            "wampkit:routes": self._routes_from,
            "wampkit:connections": self._connections,
            "wampkit:connection": self._connection,
            "wampkit:topics": self._topics,
            "wampkit:failures": self._failures,
            "wampkit:failure": self._failure,
        }
        rules = _rules(self._runtime.settings)
        routes = [Route("procedure", uri, uri, function, requires=rules) for uri, function in procedures.items()]
        return [*routes, Route("topic", LIVE, LIVE, requires=rules)]

    @functools.cached_property
    def _routes(self) -> list[dict[str, Any]]:
        """Descriptions of the app's routes."""
        runtime = self._runtime
        outer = middleware_names(runtime.settings.middlewares, gates=True)[1]
        routes = (*runtime.procedures, *runtime.topics)
        return [describe_route(each, outer) for each in routes if not each.builtin]

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Collect the figures each second while the app runs."""
        async with self._runtime.background("the console's clock", self._collect):
            yield

    async def _collect(self) -> None:
        registry = self._runtime.registry
        while True:
            await asyncio.sleep(INTERVAL)
            figures = asdict(self._meter.take_figures()) | self._state()
            self._figures.append(figures)
            if registry.count(LIVE):
                # Not by the broker, which would carry the figures of each process to the subscribers of all.
                registry.deliver(Publication(LIVE, msgspec.json.encode(figures)))

    def _state(self) -> dict[str, Any]:
        runtime = self._runtime
        threads = runtime.threads.handlers
        return {
            "connections": len(runtime.connections),
            "topics": len(runtime.registry) - (LIVE in runtime.registry),
            "failed": self._meter.failed,
            "threads": {name: getattr(threads, name) for name in ("running", "waiting", "held", "limit")},
            "counters": asdict(runtime.counters),
        }

    # ---- procedures

    async def _console(self) -> dict[str, Any]:
        """The app's settings, and the figures of the last minutes."""
        from .. import __version__  # not there yet while the package is imported

        settings = self._runtime.settings
        return {
            "ident": settings.ident,
            "version": __version__,
            "debug": settings.debug,
            "login": settings.cra is not None,
            "javascript": settings.javascript,
            "prefixes": dict(settings.prefixes),
            "interval": INTERVAL,
            "figures": list(self._figures),
            **self._state(),
        }

    async def _routes_from(self, offset: int = 0) -> dict[str, Any]:
        """Some of the app's routes, from this index."""
        routes = self._routes
        return {"total": len(routes), "rows": routes[max(offset, 0) :][:ROUTES_AT_ONCE]}

    async def _connections(
        self, search: str = "", order: str = "", offset: int = 0, limit: int = MAX_ROWS
    ) -> dict[str, Any]:
        """Some live connections that contain a text, ordered by "queued", "subscriptions", "address" or "user"."""
        connections = list(self._runtime.connections)
        if not search and not order:
            window = _window(connections, offset, limit)
            return _page([_row(each) for each in window], len(connections), len(connections))
        found = await _search(connections, _row, search)
        if order in ("queued", "subscriptions"):
            found.sort(key=lambda row: -row[order])
        elif order in ("address", "user"):
            found.sort(key=lambda row: row[order] or "")
        return _page(_window(found, offset, limit), len(found), len(connections))

    async def _connection(self, id: str) -> dict[str, Any]:
        """One connection with its topics."""
        connection = self._runtime.connections.get(id)
        if connection is None:
            raise NotFound("this connection has ended")
        return _row(connection) | {"topics": [uri for uri in connection.topics if not _is_builtin(uri)][:MAX_ROWS]}

    async def _topics(self, search: str = "", offset: int = 0, limit: int = MAX_ROWS) -> dict[str, Any]:
        """Some of the topics that have subscribers, those with the most first."""
        registry = self._runtime.registry
        uris = [uri for uri in registry if not _is_builtin(uri)]
        found = await _search(uris, lambda uri: {"uri": uri, "subscribers": registry.count(uri)}, search)
        found.sort(key=lambda row: (-row["subscribers"], row["uri"]))
        return _page(_window(found, offset, limit), len(found), len(uris))

    async def _failures(self, after: int = 0) -> list[dict[str, Any]]:
        """The failures with a number above this, the newest first, without their tracebacks."""
        failures = [asdict(each) for each in self._meter.failures() if each.number > after]
        return [each | {"traceback": each["traceback"] is not None} for each in failures]

    async def _failure(self, number: int) -> Failure:
        """One failure with its traceback."""
        for each in self._meter.failures():
            if each.number == number:
                return each
        raise NotFound("this failure is no longer remembered")


def _rules(settings: Settings) -> tuple[Rule, ...]:
    """The rules for the console: its own, else the app's default, else a login where WAMP-CRA is on."""
    if isinstance(settings.console, tuple):
        return settings.console
    if settings.requires:
        return settings.requires
    return () if settings.cra is None else (requires(),)


def console_is_open(settings: Settings) -> bool:
    """Whether every client that can connect may use the console."""
    return bool(settings.console) and not _rules(settings)


def _row(connection: Connection) -> dict[str, Any]:
    user, topics = connection.user, connection.topics
    return {
        "id": connection.id,
        "address": connection.remote,
        "user": None if user is None else as_text(user),
        "roles": sorted(map(as_text, connection.roles)),
        "subscriptions": len(topics) - (LIVE in topics),
        "queued": connection.unsent,
        "dropped": connection.dropped,
    }


T = TypeVar("T")


async def _search(items: list[T], row: Callable[[T], dict[str, Any]], search: str) -> list[dict[str, Any]]:
    """The rows that contain a text. Searching thousands pauses for the app's clients."""
    wanted = search.lower()
    found = []
    for index, item in enumerate(items):
        if index % MAX_ROWS == MAX_ROWS - 1:
            await asyncio.sleep(0)
        made = row(item)
        if not wanted or any(wanted in str(value).lower() for value in made.values() if value is not None):
            found.append(made)
    return found


def _window(rows: list[T], offset: int, limit: int) -> list[T]:
    start = max(offset, 0)
    return rows[start : start + max(0, min(limit, MAX_ROWS))]


def _page(rows: list[dict[str, Any]], found: int, total: int) -> dict[str, Any]:
    return {"total": total, "found": found, "rows": rows}


def _is_builtin(uri: str) -> bool:
    return uri.startswith(RESERVED)
