"""The subscriptions of a client. Several to one topic share one on the wire, and each reconnect restores them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self

from ..errors import CallError, ConnectionLost
from ..protocol import messages
from ..protocol.extensions import SUBSCRIPTION
from ..telemetry.logs import logger_of
from .connection import ClientConnection
from .event_queue import BoundedQueue, EventQueue

__all__ = ["Subscription", "Subscriptions"]

logger: logging.Logger = logger_of(__name__)

URI_TIMEOUT = 10.0
"""Seconds for a wampkit server to answer which URI a subscription has."""

PING_TIMEOUT = 2.0
"""Seconds for any other server to answer the ping that follows a SUBSCRIBE."""

MAX_EARLY_EVENTS = 1000

MAX_EARLY_SIZE = 4 * 1024 * 1024
"""Events kept for a subscription whose URI the server has not told yet, and the bytes of their messages."""


class Subscription:
    """Events of one topic: `async with client.subscribe("chat:lobby") as events`, then `async for` or `get`.

    Attributes:
        topic: The topic as the caller wrote it.
        uri: The full topic URI, as far as it is known.
        accepted: Whether the server accepted the subscription; None where the server cannot tell.
    """

    def __init__(
        self, subscriptions: Subscriptions, connection: Callable[[], ClientConnection], topic: str, queue: EventQueue
    ) -> None:
        self.topic = topic
        self.uri = topic
        self.accepted: bool | None = None
        self._subscriptions = subscriptions
        self._connection = connection
        self._queue = queue
        self._started = False

    async def start(self) -> Self:
        """Subscribe; returns when the server has processed it.

        Raises:
            ConnectionLost: There is no connection, or it was lost meanwhile; then nothing is subscribed.
            RuntimeError: It is subscribed already.
        """
        if self._started:
            raise RuntimeError(f"the subscription to {self.topic!r} has been started already; make another")
        connection = self._connection()
        self._started = True
        self._queue.reopen()
        try:
            await self._subscriptions.add(self, self._queue, connection)
        except BaseException:
            self._started = False
            raise
        return self

    async def stop(self) -> None:
        """Unsubscribe, unless others share the subscription; iteration ends after the events received so far."""
        self._started = False
        self._queue.close(ConnectionLost(f"the subscription to {self.topic!r} has been stopped"))
        await self._subscriptions.remove(self)

    async def get(self, timeout: float | None = None) -> Any:
        """Return the next event, waiting for it if there is none.

        Args:
            timeout: Seconds to wait, or None without bound.

        Raises:
            TimeoutError: No event came in time.
            ConnectionLost: The subscription has ended, and all its events have been fetched.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        except TimeoutError:
            raise TimeoutError(f"no event on {self.topic!r} within {timeout:g} s") from None

    @property
    def dropped(self) -> int:
        """How many events were dropped because too many waited to be fetched."""
        return self._queue.dropped

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.get()
        except ConnectionLost:
            raise StopAsyncIteration from None

    def __repr__(self) -> str:
        return f"<Subscription {self.topic!r}, {len(self._queue)} events waiting>"


class _Group:
    """The subscriptions that share one on the wire.

    Attributes:
        key: The URI of the topic at its first subscription; it stays, also when the prefix is redefined.
        topic: The topic as it was written first.
        uri: The full URI as the server told it, or the key.
        accepted: Whether the server accepted it; None where the server cannot tell.
        members: The subscriptions and the queues of their events.
        early: Events that came before the server had told the URI.
        connection: The connection on which it was subscribed last.
        confirmed: Done when the server of that connection has processed the SUBSCRIBE.
    """

    def __init__(self, key: str, topic: str, connection: ClientConnection) -> None:
        self.key = key
        self.topic = topic
        self.uri = key
        self.accepted: bool | None = None
        self.members: dict[Subscription, EventQueue] = {}
        self.early: BoundedQueue[messages.Event] = BoundedQueue(MAX_EARLY_EVENTS, MAX_EARLY_SIZE)
        self.connection = connection
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def name(self) -> str:
        """The topic for SUBSCRIBE and UNSUBSCRIBE: as it was written, unless its prefix has been redefined since."""
        return self.topic if self.connection.protocol.resolve(self.topic) == self.key else self.uri

    def event_uris(self) -> Iterable[str]:
        """The URIs that its events may have. A server that cannot tell may send the topic back as it was written."""
        return {self.uri} if self.accepted is not None else {self.uri, self.key, self.topic}

    def put(self, event: Any, size: int) -> None:
        for queue in self.members.values():
            queue.put(event, size)

    def confirm(self, uri: str, accepted: bool | None) -> None:
        self.uri, self.accepted = uri, accepted
        for member in self.members:
            member.uri, member.accepted = uri, accepted


class Subscriptions:
    """All subscriptions of one client, grouped by topic."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._by_uri: dict[str, list[_Group]] = {}
        self._unconfirmed: set[_Group] = set()
        self._tasks: set[asyncio.Future[None]] = set()

    async def add(self, subscription: Subscription, queue: EventQueue, connection: ClientConnection) -> None:
        """Add a subscription; the first of its topic sends SUBSCRIBE, the others wait for it too.

        Raises ConnectionLost.
        """
        key = connection.protocol.resolve(subscription.topic)
        group = self._groups.get(key)
        if group is None:
            group = _Group(key, subscription.topic, connection)
            self._subscribe(group, connection)
            self._groups[key] = group
        group.members[subscription] = queue
        confirmed = group.confirmed  # that of this connection: a reconnect gives the group another
        try:
            # Not awaited itself: cancelling one caller must not cancel it for the others.
            await asyncio.wait({confirmed})
            confirmed.result()
        except BaseException:
            self._remove(subscription)
            raise
        subscription.uri, subscription.accepted = group.uri, group.accepted

    async def remove(self, subscription: Subscription) -> None:
        """Remove a subscription; the last of its topic sends UNSUBSCRIBE."""
        unsubscribed = self._remove(subscription)
        if unsubscribed is not None:
            await asyncio.wait({unsubscribed})

    async def restore(self, connection: ClientConnection) -> None:
        """Subscribe to every topic again, on a new connection. Raises ConnectionLost."""
        groups = list(self._groups.values())
        for group in groups:
            self._unindex(group)
            self._subscribe(group, connection)
        confirmed = [group.confirmed for group in groups]
        if confirmed:
            await asyncio.wait(confirmed)
        for each in confirmed:
            each.result()

    def close(self, reason: ConnectionLost) -> None:
        """End all subscriptions, as the client is closed."""
        for group in self._groups.values():
            self._unindex(group)
            for queue in group.members.values():
                queue.close(reason)
        self._groups.clear()

    def deliver(self, connection: ClientConnection, message: messages.Event, size: int) -> None:
        """Put an event into the queues of its topic, or keep it for the groups whose URI is not known yet."""
        groups = self._by_uri.get(message.uri)
        if groups is None:
            # Some servers shorten the URI, with this client's own prefixes.
            groups = self._by_uri.get(connection.protocol.resolve(message.uri))
        if groups is None:
            for group in self._unconfirmed:
                group.early.append(message, size)
        else:
            for group in groups:
                group.put(message.event, size)

    # ---- SUBSCRIBE and UNSUBSCRIBE

    def _subscribe(self, group: _Group, connection: ClientConnection) -> None:
        group.connection = connection
        name = group.name()
        text = connection.protocol.subscribe(name)
        group.confirmed = self._start(self._confirm(group, name, text))
        if connection.is_wampkit:
            self._unconfirmed.add(group)
        else:
            self._index(group)

    async def _confirm(self, group: _Group, name: str, text: bytes) -> None:
        try:
            await group.connection.send(text)
            uri, accepted = await _ask_uri(group.connection, name, group.uri)
        finally:
            self._unconfirmed.discard(group)
        if accepted is False and group.accepted is not False:
            logger.warning("the server refused the subscription to %r", group.topic)
        self._unindex(group)
        group.confirm(uri, accepted)
        if self._groups.get(group.key) is group:
            self._index(group)

    def _remove(self, subscription: Subscription) -> asyncio.Future[None] | None:
        """Remove a subscription; returns the task of its UNSUBSCRIBE, if there is one and it will end soon.

        Where it must wait for an answer of the server first, it may take long and is not returned.
        """
        group = next((group for group in self._groups.values() if subscription in group.members), None)
        if group is None:
            return None
        del group.members[subscription]
        if group.members:
            return None
        del self._groups[group.key]
        self._unindex(group)
        task = self._start(self._unsubscribe(group))
        return task if group.confirmed.done() and not self._unconfirmed else None

    async def _unsubscribe(self, group: _Group) -> None:
        await asyncio.wait({group.confirmed})
        # Two names of this client may be one topic to the server; it is known once the server has told all URIs.
        while waiting := {other.confirmed for other in self._unconfirmed}:
            await asyncio.wait(waiting)
        uris = (group.uri, group.key)
        shared = any(other.uri in uris or other.key in uris for other in self._groups.values())
        if not shared and not group.connection.lost.done():
            await group.connection.send(group.connection.protocol.unsubscribe(group.name()))

    # ---- groups by the URI of their events

    def _index(self, group: _Group) -> None:
        uris = group.event_uris()
        for uri in uris:
            self._by_uri.setdefault(uri, []).append(group)
        for message, size in group.early.clear():
            if message.uri in uris or group.connection.protocol.resolve(message.uri) in uris:
                group.put(message.event, size)

    def _unindex(self, group: _Group) -> None:
        for uri in group.event_uris():
            groups = self._by_uri.get(uri, [])
            if group in groups:
                groups.remove(group)
            if not groups:
                self._by_uri.pop(uri, None)

    # ---- tasks

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it; those who wait see it too


async def _ask_uri(connection: ClientConnection, name: str, uri: str) -> tuple[str, bool | None]:
    """The full URI of a subscription that was just sent, and whether it was accepted, if the server can tell."""
    if connection.is_wampkit:
        try:
            async with asyncio.timeout(URI_TIMEOUT):
                told = await connection.call(SUBSCRIPTION, name)
            return (told, True) if isinstance(told, str) else (uri, False)
        except (CallError, TimeoutError):
            pass
    await connection.round_trip(PING_TIMEOUT)
    return uri, None
