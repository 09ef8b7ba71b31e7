"""What handlers and the app use: one topic, the mapping of all topics with subscribers, and one user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..connection.connection import Connection
from ..connection.registry import Connections
from ..protocol.websocket import CloseCode
from .registry import TopicRegistry

__all__ = ["ToUser", "Topic", "Topics"]


class Topic:
    """A topic: publish to it, or see who is subscribed.

    Attributes:
        uri: The full URI.
    """

    __slots__ = ("_registry", "uri")

    def __init__(self, uri: str, registry: TopicRegistry) -> None:
        self.uri: str = uri
        self._registry = registry

    async def publish(
        self,
        event: Any,
        *,
        exclude: Iterable[str] = (),
        eligible: Iterable[str] | None = None,
        now: bool = False,
    ) -> None:
        """Send an event to the subscribers. Never waits for slow receivers.

        In a handler or hook with a generator dependency the event is sent when all of these have ended without an
        error, and dropped if one of them or the handler fails.

        Args:
            event: Any value that JSON can carry, dataclasses, structs, dates and UUIDs included.
            exclude: Session ids that do not receive it.
            eligible: If given, only these session ids may receive it; an empty list means none.
            now: Whether to send it at once, even if the handler or a dependency fails later.

        Raises:
            TypeError: JSON cannot carry the event.
        """
        await self._registry.publish(self.uri, event, exclude=exclude, eligible=eligible, now=now)

    @property
    def subscribers(self) -> list[Connection]:
        """The connections in this process that are subscribed now."""
        return self._registry.subscribers(self.uri)

    def __len__(self) -> int:
        return self._registry.count(self.uri)

    def __bool__(self) -> bool:
        # A topic without subscribers is still a topic.
        return True

    def __iter__(self) -> Iterator[Connection]:
        return iter(self.subscribers)

    def __contains__(self, connection: object) -> bool:
        return connection in self.subscribers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Topic) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    def __repr__(self) -> str:
        return f"<Topic {self.uri!r}, {len(self)} subscribers>"


class Topics(Mapping[str, Topic]):
    """The topics that have subscribers in this process, by URI. It may change while it is iterated.

    A topic without subscribers is not in it. A CURIE finds its topic too: `app.topics["chat:lobby"]`.
    """

    __slots__ = ("_expand", "_registry")

    def __init__(self, registry: TopicRegistry, expand: Callable[[str], str]) -> None:
        self._registry = registry
        self._expand = expand

    def __getitem__(self, name: str) -> Topic:
        uri = name if name in self._registry else self._expand(name)
        if uri not in self._registry:
            raise KeyError(name)
        return Topic(uri, self._registry)

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry)

    def __len__(self) -> int:
        return len(self._registry)

    def __repr__(self) -> str:
        return f"<Topics, {len(self)} with subscribers>"


class ToUser:
    """The connections of one user, looked up at each use; made by `app.to_user(user)`.

    Attributes:
        user: The user.
    """

    __slots__ = ("_connections", "_expand", "_registry", "user")

    def __init__(
        self, user: Any, connections: Connections, registry: TopicRegistry, expand: Callable[[str], str]
    ) -> None:
        self.user: Any = user
        self._connections = connections
        self._registry = registry
        self._expand = expand

    @property
    def connections(self) -> list[Connection]:
        """The user's connections in this process, those included whose handshake is not finished."""
        return self._connections(user=self.user)

    async def publish(self, topic: str, event: Any, *, now: bool = False) -> None:
        """Send an event to those of the user's connections that are subscribed to a topic.

        In a handler or hook with a generator dependency it is sent as `Topic.publish` says.

        Args:
            topic: A URI or a CURIE of the app's prefixes.
            event: Any value that JSON can carry.
            now: Whether to send it at once, even if the handler or a dependency fails later.

        Raises:
            ValueError: No such topic is declared.
            TypeError: JSON cannot carry the event.
        """
        eligible = [each.id for each in self.connections]
        await self._registry.publish(self._expand(topic), event, eligible=eligible, now=now)

    def close(
        self, code: int = CloseCode.POLICY_VIOLATION, reason: str = "the server closed this user's connections"
    ) -> int:
        """Close all of the user's connections, without waiting; returns how many there were.

        Args:
            code: The WebSocket close code. wampkit's own clients do not reconnect after 1008.
            reason: The reason, for the client and the log.
        """
        connections = self.connections
        for connection in connections:
            connection.close(code, reason)
        return len(connections)

    def __len__(self) -> int:
        return len(self.connections)

    def __bool__(self) -> bool:
        # A user without connections is still a user.
        return True

    def __repr__(self) -> str:
        return f"<ToUser {self.user!r}, {len(self)} connections>"
