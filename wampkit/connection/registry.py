"""The register of live connections, by session id and by user, and the context that all of them share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..concurrency.eager import EagerTasks
from ..concurrency.threads import ThreadPools
from ..limits import Limits
from ..telemetry.counters import Counters
from ..telemetry.logs import LogThrottle
from .connection import Connection
from .outbox import Flusher

if TYPE_CHECKING:
    from .server_connection import ServerConnection

__all__ = ["ConnectionContext", "ConnectionOptions", "ConnectionRegistry", "Connections"]


class Connections:
    """The live connections of this process: iterable, with `len` and `in`."""

    def __init__(self) -> None:
        self._by_id: dict[str, ServerConnection] = {}
        self._by_user: dict[Any, dict[ServerConnection, None]] = {}  # those whose user is None are not in it
        self._arriving: set[ServerConnection] = set()

    @property
    def arriving(self) -> list[Connection]:
        """Connections whose handshake the middlewares are still checking.

        To close all connections of a user, close these too; `close` makes the handshake fail.
        """
        return list(self._arriving)

    def get(self, session: str) -> Connection | None:
        """The live connection with this session id, or None."""
        return self._by_id.get(session)

    def __call__(self, *, user: Any = None, session_id: str | None = None) -> list[Connection]:
        """The connections of a user, those in the handshake too: `app.connections(user="alice")`.

        Args:
            user: A user, as in `Connection.user`.
            session_id: The id of a web session, `connection.session.id`; not the id of WELCOME.

        Raises:
            TypeError: Both are given, or neither.
        """
        if (user is None) == (session_id is None):
            raise TypeError("connections(...) takes either user= or session_id=")
        if user is not None:
            return [*self._by_user.get(user, ()), *(each for each in self._arriving if each.user == user)]
        candidates = (*self._by_id.values(), *self._arriving)
        return [each for each in candidates if each.session is not None and each.session.id == session_id]

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection: object) -> bool:
        return isinstance(connection, Connection) and self._by_id.get(connection.id) is connection


class ConnectionRegistry(Connections):
    """The same for the server, which adds and removes connections."""

    def __iter__(self) -> Iterator[ServerConnection]:
        return iter(list(self._by_id.values()))

    @contextlib.contextmanager
    def arrival(self, connection: ServerConnection) -> Iterator[None]:
        """Context manager around the handshake of a connection."""
        self._arriving.add(connection)
        try:
            yield
        finally:
            self._arriving.discard(connection)

    def add(self, connection: ServerConnection) -> None:
        """Add a connection."""
        self._by_id[connection.id] = connection
        self._add_to_user(connection)

    def discard(self, connection: ServerConnection) -> None:
        """Remove a connection, if it is there."""
        self._by_id.pop(connection.id, None)
        self._discard_from_user(connection, connection.user)

    def update_user(self, connection: ServerConnection, before: Any) -> None:
        """Enter the new user of a connection, if it is live, in place of the one before."""
        if connection.id in self._by_id:
            self._discard_from_user(connection, before)
            self._add_to_user(connection)

    def _add_to_user(self, connection: ServerConnection) -> None:
        if connection.user is not None:
            self._by_user.setdefault(connection.user, {})[connection] = None

    def _discard_from_user(self, connection: ServerConnection, user: Any) -> None:
        connections = self._by_user.get(user)
        if connections is not None:
            connections.pop(connection, None)
            if not connections:
                del self._by_user[user]


class ConnectionOptions(Protocol):
    """The options of an app that its connections read; see `App` for each."""

    @property
    def malformed(self) -> Literal["close", "ignore"]: ...

    @property
    def keepalive(self) -> float | None: ...

    @property
    def close_timeout(self) -> float: ...


@dataclass(frozen=True, slots=True)
class ConnectionContext:
    """Settings and services that all connections of a running app share.

    Attributes:
        report: Calls the app's `on_error` hooks with an exception and its connection; does not wait.
    """

    options: ConnectionOptions
    limits: Limits
    counters: Counters
    threads: ThreadPools
    connections: ConnectionRegistry
    report: Callable[[BaseException, Connection], None]
    throttle: LogThrottle
    flusher: Flusher = field(default_factory=Flusher)
    eager: EagerTasks = field(default_factory=EagerTasks)
