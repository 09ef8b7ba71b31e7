"""Which live connections belong to which user."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Users"]


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
