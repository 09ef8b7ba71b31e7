"""Everything that belongs to one user, however many connections that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .connection import Connection
from .connections import Connections
from .topics import Topics

__all__ = ["ToUser"]

CLOSED_BY_SERVER = 1008


class ToUser:
    """What `app.to_user(user)` gives: it reaches the connections that the user has at the moment of each use.

    Attributes:
        user: The user.
    """

    def __init__(self, user: Any, connections: Connections, topics: Topics, expand: Callable[[str], str]) -> None:
        self.user = user
        self._connections = connections
        self._topics = topics
        self._expand = expand

    @property
    def connections(self) -> list[Connection]:
        """The user's connections on this node, those at the door too."""
        return self._connections(user=self.user)

    async def publish(self, topic: str, event: Any, *, now: bool = False) -> None:
        """Send an event to those of the user's connections that are subscribed to a topic.

        In a handler or hook with a generator dependency it leaves as `App.publish` says.

        Args:
            topic: A URI or a CURIE of the app's prefixes.
            event: Anything JSON can carry.
            now: Whether it leaves at once, whatever becomes of the message that is being handled.

        Raises:
            ValueError: No such topic is declared.
            TypeError: JSON cannot carry the event.
        """
        eligible = [each.id for each in self.connections]
        await self._topics.publish(self._expand(topic), event, eligible=eligible, now=now)

    def close(self, code: int = CLOSED_BY_SERVER, reason: str = "the server closed this user's connections") -> int:
        """Close all of the user's connections; does not wait. Gives how many there were.

        Args:
            code: The WebSocket close code. wampkit's own clients do not come back after 1008.
            reason: Why, for the client and the log.
        """
        connections = self.connections
        for connection in connections:
            connection.close(code, reason)
        return len(connections)

    def __len__(self) -> int:
        return len(self.connections)

    def __bool__(self) -> bool:
        # A user who is not there is still a user.
        return True

    def __repr__(self) -> str:
        return f"<ToUser {self.user!r}, {len(self)} connections>"
