"""The subscribers of this node by topic, and the fan-out of events to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from ..concurrency.cancellation import must_propagate
from ..concurrency.eager import EagerTasks
from ..connection.connection import Connection
from ..connection.outbox import Flusher, PendingOutbox, Receiver
from ..connection.server_connection import ServerConnection
from ..handlers.transaction import current_transaction
from ..protocol.messages import encode_value, event_head, event_text
from .broker import Broker, Publication

__all__ = ["TopicRegistry"]

BROKER_CALLS = 16
"""Topics of which a broker is told concurrently when a connection leaves many."""


class _Subscribers:
    """The receivers of one topic's events by session id, and the beginning of its EVENTs."""

    __slots__ = ("event_head", "receivers")

    def __init__(self, uri: str) -> None:
        self.event_head = event_head(uri)
        self.receivers: dict[str, Receiver] = {}


class TopicRegistry:
    """The subscribers of each topic on this node, and the delivery of events to them.

    A topic is in it from its first subscriber to its last. Publishing to any other topic stores nothing.

    Args:
        broker: Carries publications between nodes, and back to `deliver`.
        flusher: Writes to the subscribers.
        eager: Starts coroutines at once.
        known: Whether a topic of this URI is declared.
    """

    def __init__(self, broker: Broker, flusher: Flusher, eager: EagerTasks, known: Callable[[str], bool]) -> None:
        self._broker = broker
        self._eager = eager
        self._flusher = flusher
        self._known = known
        self._subscribers: dict[str, _Subscribers] = {}
        self._carried: set[str] = set()  # the topics that the broker is subscribed to for this node
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # held by calls to the broker

    # ---- reading

    def __contains__(self, uri: object) -> bool:
        return uri in self._subscribers

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._subscribers))

    def __len__(self) -> int:
        return len(self._subscribers)

    def subscribers(self, uri: str) -> list[Connection]:
        """The connections of this node that are subscribed to `uri`."""
        owners = [receiver.owner for receiver in self._receivers(uri).values()]
        # A receiver whose connection has ended has no owner any more.
        return [owner for owner in owners if isinstance(owner, Connection)]

    def count(self, uri: str) -> int:
        """How many connections of this node are subscribed to `uri`."""
        return len(self._receivers(uri))

    def has(self, uri: str, session: str) -> bool:
        """Whether a session is subscribed to `uri`, or its subscription is pending."""
        subscribers = self._subscribers.get(uri)
        return subscribers is not None and session in subscribers.receivers

    def _receivers(self, uri: str) -> dict[str, Receiver]:
        subscribers = self._subscribers.get(uri)
        return {} if subscribers is None else subscribers.receivers

    # ---- subscribing and unsubscribing

    async def add_pending(self, uri: str, connection: ServerConnection) -> None:
        """Add a subscription that is not accepted yet: its events are kept until `accept` or `discard_pending`."""
        self._flusher.distribute()
        subscribers = self._subscribers.get(uri)
        if subscribers is None:
            subscribers = self._subscribers[uri] = _Subscribers(uri)
        subscribers.receivers[connection.id] = connection.outbox.pending()
        await self._tell_broker(uri)

    def accept(self, uri: str, connection: ServerConnection) -> None:
        """Accept a pending subscription and send the events that were kept for it."""
        self._flusher.distribute()
        receivers = self._subscribers[uri].receivers
        pending = receivers[connection.id]
        receivers[connection.id] = connection.outbox
        if isinstance(pending, PendingOutbox):
            pending.accept()
            self._flusher.schedule()

    async def discard_pending(self, uri: str, session: str) -> None:
        """Refuse a pending subscription, and end the topic with its last one."""
        if self.remove(uri, session):
            await self._tell_broker(uri)

    def remove(self, uri: str, session: str) -> bool:
        """End a subscription on this node at once; call `update_broker` afterwards. False if there was none."""
        receivers = self._receivers(uri)
        if session not in receivers:
            return False
        self._flusher.distribute()
        del receivers[session]
        if not receivers:
            del self._subscribers[uri]
        return True

    def update_broker(self, uris: Iterable[str]) -> Awaitable[list[BaseException]]:
        """Begin to unsubscribe the broker from those of the topics that have no subscribers any more, concurrently.

        Returns:
            Awaitable: the exceptions that the broker raised, once it has been told of all.
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
        while waiting and len(tasks) < BROKER_CALLS:
            task = self._eager.start(work(), copy_context())  # None if the broker returned without waiting
            if task is not None:
                tasks.append(task)

        async def finished() -> list[BaseException]:
            if tasks:
                await asyncio.gather(*tasks)
            return failures

        return finished()

    async def _tell_broker(self, uri: str) -> None:
        """Subscribe the broker to a topic that has subscribers, or unsubscribe it from one that has none.

        A broker may take its time. Calls about one topic run one after the other, so that no subscription is accepted
        before the broker hears its events, and none is ended by an older unsubscribe.
        """
        if uri not in self._locks and (uri in self._subscribers) == (uri in self._carried):
            return
        lock = self._locks.setdefault(uri, asyncio.Lock())
        async with lock:
            if uri in self._subscribers and uri not in self._carried:
                await self._broker.subscribe(uri)
                self._carried.add(uri)
            elif uri not in self._subscribers and uri in self._carried:
                self._carried.discard(uri)
                await self._broker.unsubscribe(uri)

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

        The arguments are those of `Topic.publish`.

        Raises:
            TypeError: JSON cannot carry the event, or `exclude` or `eligible` is a text.
            ValueError: No such topic is declared.
        """
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

    def deliver(self, publication: Publication) -> None:
        """Send a publication to this node's subscribers: one frame, made once. Never waits for slow receivers."""
        subscribers = self._subscribers.get(publication.topic)
        if subscribers is None:
            return
        text = event_text(subscribers.event_head, publication.event)
        receivers, exclude = subscribers.receivers, publication.exclude
        if publication.eligible is not None:
            ids = publication.eligible - exclude
            self._flusher.publish_to([receivers[each] for each in ids if each in receivers], text)
        elif exclude and not exclude.isdisjoint(receivers):
            self._flusher.publish_to([receiver for each, receiver in receivers.items() if each not in exclude], text)
        else:
            self._flusher.publish(receivers, text)
