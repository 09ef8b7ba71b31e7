"""The register of live connections, by session id and by user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

from .connection import Connection

__all__ = ["Connections", "Users"]


class HasUser(Protocol):
    """As much of a connection as is needed here."""

    @property
    def user(self) -> Any: ...


C = TypeVar("C", bound=HasUser)


class Users(Generic[C]):
    """The live connections of each known user. Connections without a user cost nothing here."""

    def __init__(self) -> None:
        self._connections: dict[Any, dict[C, None]] = {}

    def enter(self, connection: C) -> None:
        """A connection is live from now on, or has got its user."""
        if connection.user is not None:
            self._connections.setdefault(connection.user, {})[connection] = None

    def leave(self, connection: C, user: Any) -> None:
        """A connection has ended, or belongs to this user no longer."""
        connections = self._connections.get(user)
        if connections is not None:
            connections.pop(connection, None)
            if not connections:
                del self._connections[user]

    def of(self, user: Any) -> list[C]:
        """The live connections of a user."""
        return list(self._connections.get(user, ()))


class Connections:
    """The live connections of this node, by session id."""

    def __init__(self, users: Users[Connection]) -> None:
        self._by_id: dict[str, Connection] = {}
        self._arriving: set[Connection] = set()
        self._users = users

    def add(self, connection: Connection) -> None:
        """Add a connection."""
        self._by_id[connection.id] = connection
        connection.listed = True
        self._users.enter(connection)

    @property
    def arriving(self) -> list[Connection]:
        """Connections whose handshake is being checked: some middlewares have accepted them, others are still to come.

        To close all connections of a user, close these too; `close` makes the handshake fail.
        """
        return list(self._arriving)

    @contextlib.contextmanager
    def arrival(self, connection: Connection) -> Iterator[None]:
        """Context manager around the handshake of a connection."""
        self._arriving.add(connection)
        try:
            yield
        finally:
            self._arriving.discard(connection)

    def discard(self, connection: Connection) -> None:
        """Remove a connection, if it is there."""
        self._by_id.pop(connection.id, None)
        connection.listed = False
        self._users.leave(connection, connection.user)

    def get(self, session: str) -> Connection | None:
        """The live connection with this session id, or None."""
        return self._by_id.get(session)

    def __call__(self, *, user: Any = None, session_id: str | None = None) -> list[Connection]:
        """The connections of a user, those in the handshake too: `app.connections(user="alice")`.

        Args:
            user: A user, as in `Connection.user`.
            session_id: The id of a web session, as the middleware `Sessions` knows it; not the id of WELCOME.
        """
        if (user is None) == (session_id is None):
            raise TypeError("connections(...) takes either user= or session_id=")
        if user is not None:
            return [*self._users.of(user), *(each for each in self._arriving if each.user == user)]
        everybody = (*self, *self._arriving)
        return [each for each in everybody if each.session is not None and each.session.id == session_id]

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection: object) -> bool:
        return isinstance(connection, Connection) and self._by_id.get(connection.id) is connection
