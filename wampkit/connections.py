"""The register of live connections."""

from __future__ import annotations

from collections.abc import Iterator

from .connection import Connection

__all__ = ["Connections"]


class Connections:
    """The live connections of this node, by session id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}

    def add(self, connection: Connection) -> None:
        """Enter a connection."""
        self._by_id[connection.id] = connection

    def discard(self, connection: Connection) -> None:
        """Remove a connection, if it is there."""
        self._by_id.pop(connection.id, None)

    def get(self, session: str) -> Connection | None:
        """The live connection with this session id, or None."""
        return self._by_id.get(session)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, connection: object) -> bool:
        return isinstance(connection, Connection) and self._by_id.get(connection.id) is connection
