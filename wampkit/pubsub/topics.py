"""Topics: who is subscribed, and the fan-out of events.

Who on this node is subscribed to what, and how an event reaches them.

A topic is in the register as long as somebody is subscribed to it and leaves with its last subscriber; publishing
to a topic that nobody subscribed creates nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

from ..concurrency.cancellation import must_propagate
from ..concurrency.eager import EagerTasks
from ..connection.connection import Connection
from ..connection.outbox import Flusher, Provisional, Receiver
from ..connection.registry import Connections
from ..handlers.transaction import current_transaction
from ..protocol.messages import encode_value, event_begin
from ..protocol.websocket import CloseCode, text_frame
from .broker import Broker, Publication

__all__ = ["ToUser", "Topic", "Topics"]

GOODBYES_AT_ONCE = 16
"""Topics of which a broker is told side by side, when a connection leaves many."""


class _Subscribers:
    """Who receives the events of one topic, by session id, and how each EVENT of it begins."""

    __slots__ = ("begin", "receivers")

    def __init__(self, uri: str) -> None:
        self.begin = event_begin(uri)
        self.receivers: dict[str, Receiver] = {}


class _TopicLock:
    """What is being said to the broker about one topic, one thing after the other."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Topic:
    """A topic, as handlers see it.

    Attributes:
        uri: The full URI.
    """

    __slots__ = ("_topics", "uri")

    def __init__(self, uri: str, topics: Topics) -> None:
        self.uri = uri
        self._topics = topics

    async def publish(
        self,
        event: Any,
        *,
        exclude: Iterable[str] = (),
        eligible: Iterable[str] | None = None,
        now: bool = False,
    ) -> None:
        """Send an event to the subscribers. Never waits for slow receivers.

        In a handler or hook with a generator dependency it leaves when all of these have ended well, and is dropped
        if one of them or the handler fails.

        Args:
            event: Anything JSON can carry, dataclasses, structs, dates and UUIDs included.
            exclude: Session ids that shall not receive it.
            eligible: If given, only these session ids may receive it; an empty list means nobody.
            now: Whether it leaves at once, whatever becomes of the message that is being handled.

        Raises:
            TypeError: JSON cannot carry the event.
        """
        await self._topics.publish(self.uri, event, exclude=exclude, eligible=eligible, now=now)

    @property
    def subscribers(self) -> list[Connection]:
        """The connections of this node that are subscribed now."""
        return self._topics.subscribers(self.uri)

    def __len__(self) -> int:
        return self._topics.count(self.uri)

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
    """The topics that have subscribers in this process, by URI: a mapping that can be walked at any time.

    A topic without subscribers is not there. A CURIE finds its topic too: `app.topics["chat:lobby"]`.

    Args:
        broker: What carries publications.
        flusher: What writes to the subscribers.
        eager: What starts coroutines at once.
        known: Says whether a topic of this URI is declared.
        expand: Gives the full URI of a name.
    """

    def __init__(
        self,
        broker: Broker,
        flusher: Flusher,
        eager: EagerTasks,
        known: Callable[[str], bool],
        expand: Callable[[str], str],
    ) -> None:
        self._broker = broker
        self._eager = eager
        self._flusher = flusher
        self._known = known
        self._expand = expand
        self._subscribers: dict[str, _Subscribers] = {}
        self._carried: set[str] = set()
        self._locks: dict[str, _TopicLock] = {}

    # ---- walking

    def __getitem__(self, name: str) -> Topic:
        uri = name if name in self._subscribers else self._expand(name)
        if uri not in self._subscribers:
            raise KeyError(name)
        return Topic(uri, self)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._subscribers))

    def __len__(self) -> int:
        return len(self._subscribers)

    def subscribers(self, uri: str) -> list[Connection]:
        """The connections of this node that are subscribed to `uri`."""
        owners = [receiver.owner for receiver in self._receivers(uri).values()]
        # What belongs to a connection that has ended has no owner any more.
        return [owner for owner in owners if isinstance(owner, Connection)]

    def count(self, uri: str) -> int:
        """How many connections of this node are subscribed to `uri`."""
        return len(self._receivers(uri))

    def _receivers(self, uri: str) -> dict[str, Receiver]:
        audience = self._subscribers.get(uri)
        return {} if audience is None else audience.receivers

    # ---- coming and going

    def has(self, uri: str, session: str) -> bool:
        """Whether a session is subscribed to `uri`, or about to be."""
        return session in self._receivers(uri)

    async def propose(self, uri: str, connection: Connection) -> None:
        """Enter a subscription on approval: events are kept for it until `accept` or `remove`."""
        self._flusher.distribute()
        audience = self._subscribers.get(uri)
        if audience is None:
            audience = self._subscribers[uri] = _Subscribers(uri)
        audience.receivers[connection.id] = connection.outbox.provisional()
        await self._tell_broker(uri)

    def accept(self, uri: str, connection: Connection) -> None:
        """Make a proposed subscription stand and hand it the events that were kept."""
        self._flusher.distribute()
        receivers = self._subscribers[uri].receivers
        candidate = receivers[connection.id]
        receivers[connection.id] = connection.outbox
        if isinstance(candidate, Provisional):
            candidate.accept()
            self._flusher.schedule()

    async def remove(self, uri: str, session: str) -> None:
        """End a subscription, and the topic with its last one."""
        if self.release(uri, session):
            await self._tell_broker(uri)

    def release(self, uri: str, session: str) -> bool:
        """End a subscription on this node, at once; `say_goodbye` tells the broker. False if there was none."""
        receivers = self._receivers(uri)
        if session not in receivers:
            return False
        self._flusher.distribute()
        del receivers[session]
        if not receivers:
            del self._subscribers[uri]
        return True

    def say_goodbye(self, uris: Iterable[str]) -> Awaitable[list[BaseException]]:
        """Begin to tell the broker which of these topics have no subscribers any more, several at a time.

        Returns:
            Awaitable: what the broker raised, once it has been told of all.
        """
        waiting = deque(uri for uri in uris if uri not in self._subscribers)
        failures: list[BaseException] = []

        async def work() -> None:
            while waiting:
                try:
                    await self._tell_broker(waiting.popleft())
                except BaseException as error:
                    if must_propagate(error):
                        raise
                    failures.append(error)

        tasks: list[asyncio.Task[None]] = []
        while waiting and len(tasks) < GOODBYES_AT_ONCE:
            task = self._eager.start(work(), copy_context())  # none where the broker does not keep one waiting
            if task is not None:
                tasks.append(task)

        async def said() -> list[BaseException]:
            if tasks:
                await asyncio.gather(*tasks)
            return failures

        return said()

    async def _tell_broker(self, uri: str) -> None:
        """Have the broker carry a topic exactly as long as it has subscribers.

        A broker may take its time: whoever comes meanwhile waits for it too, so that no subscription stands
        before its events are heard, and none is undone by an older goodbye.
        """
        if uri not in self._locks and (uri in self._subscribers) == (uri in self._carried):
            return
        talk = self._locks.setdefault(uri, _TopicLock())
        talk.users += 1
        try:
            async with talk.lock:
                if uri in self._subscribers and uri not in self._carried:
                    await self._broker.subscribe(uri)
                    self._carried.add(uri)
                elif uri not in self._subscribers and uri in self._carried:
                    self._carried.discard(uri)
                    await self._broker.unsubscribe(uri)
        finally:
            talk.users -= 1
            if not talk.users:
                del self._locks[uri]

    # ---- events

    async def publish(
        self,
        uri: str,
        event: Any,
        *,
        exclude: Iterable[str] = (),
        eligible: Iterable[str] | None = None,
        now: bool = False,
    ) -> None:
        """Encode an event once and give it to the broker, or to the transaction of the message that is being handled.
        Raises as `Topic.publish` does, and ValueError for a topic that is not declared."""
        for ids in (exclude, eligible):
            if isinstance(ids, str):
                raise TypeError(f"exclude and eligible are lists of session ids, not the text {ids!r}")
        if uri not in self._subscribers and not self._known(uri):
            raise ValueError(f"no topic is declared that {uri!r} could be; declare it with @app.topic or app.topic")
        allowed = None if eligible is None else frozenset(eligible)
        publication = Publication(uri, encode_value(event), frozenset(exclude), allowed)
        transaction = None if now else current_transaction.get()
        if transaction is None or not transaction.hold(partial(self._broker.publish, publication)):
            await self._broker.publish(publication)

    def send(self, uri: str, event: Any, exclude: frozenset[str], eligible: frozenset[str] | None) -> Awaitable[None]:
        """The same for a topic that is known to be declared, at once."""
        return self._broker.publish(Publication(uri, encode_value(event), exclude, eligible))

    def deliver(self, publication: Publication) -> None:
        """Give a publication to this node's subscribers: one frame, made once. Never waits for slow receivers."""
        audience = self._subscribers.get(publication.topic)
        if audience is None:
            return
        frame = text_frame(audience.begin + publication.event + b"]")
        receivers, exclude = audience.receivers, publication.exclude
        if publication.eligible is not None:
            self._flusher.distribute()
            for session in publication.eligible - exclude:
                if session in receivers:
                    receivers[session].send_events(frame, 1)
            self._flusher.schedule()
        elif exclude and not exclude.isdisjoint(receivers):
            self._flusher.distribute()
            for session, receiver in receivers.items():
                if session not in exclude:
                    receiver.send_events(frame, 1)
            self._flusher.schedule()
        else:
            self._flusher.publish(receivers, frame)


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

    def close(
        self, code: int = CloseCode.POLICY_VIOLATION, reason: str = "the server closed this user's connections"
    ) -> int:
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
