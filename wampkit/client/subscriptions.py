"""A client's subscriptions: iterators over events, of which several share one subscription on the wire."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..errors import CallError, ConnectionLost
from ..protocol import messages
from ..protocol.extensions import SUBSCRIPTION
from ..telemetry.logs import logger_of
from .connection import Link

__all__ = ["Subscription", "Subscriptions"]

logger = logger_of(__name__)

T = TypeVar("T")

ASK_TIMEOUT = 10.0

PING_TIMEOUT = 2.0

MAX_EARLY = 1000

MAX_EARLY_SIZE = 4 * 1024 * 1024
"""Events kept for a subscription whose URI the server has not told yet, and the bytes of their messages."""


class _Backlog(Generic[T]):
    """What waits to be fetched; the oldest goes where there is too much of it.

    Args:
        most: How many may wait.
        size: The bytes of the messages that they came in, together; one alone may be larger.
    """

    def __init__(self, most: int, size: int) -> None:
        self._most = most
        self._size = size
        self._bytes = 0
        self._waiting: deque[tuple[T, int]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, item: T, size: int) -> int:
        """Add one, and say how many had to go for it."""
        self._waiting.append((item, size))
        self._bytes += size
        dropped = 0
        while len(self._waiting) > self._most or (self._bytes > self._size and len(self._waiting) > 1):
            self._bytes -= self._waiting.popleft()[1]
            dropped += 1
        return dropped

    def popleft(self) -> T:
        """Take the oldest."""
        item, size = self._waiting.popleft()
        self._bytes -= size
        return item

    def take_all(self) -> list[tuple[T, int]]:
        """Take all of them, the oldest first, each with its bytes."""
        taken = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return taken


class Subscription:
    """Events of one topic: `async with client.subscribe("chat:lobby") as events`, then `async for` or `get`.

    Attributes:
        topic: The topic as it was written.
        uri: The full topic URI, as far as it is known.
        accepted: Whether the server took the subscription; None where it cannot tell.
        dropped: How many events were dropped because nobody fetched them.
    """

    def __init__(
        self, home: Subscriptions, link: Callable[[], Link], topic: str, max_events: int, max_events_size: int
    ) -> None:
        self.topic = topic
        self.uri = topic
        self.accepted: bool | None = None
        self.dropped = 0
        self._home = home
        self._link = link
        self._started = False
        self._events: _Backlog[Any] = _Backlog(max_events, max_events_size)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._end: ConnectionLost | None = None

    async def start(self) -> Self:
        """Subscribe; returns when the server has taken it in.

        Raises:
            ConnectionLost: There is no connection, or it was lost meanwhile; then nothing is subscribed.
            RuntimeError: It is subscribed already.
        """
        if self._started:
            raise RuntimeError(f"the subscription to {self.topic!r} has been started already; make another")
        link = self._link()
        self._started, self._end = True, None
        try:
            await self._home.join(self, link)
        except BaseException:
            self._started = False
            raise
        return self

    async def stop(self) -> None:
        """Unsubscribe, unless others share the subscription; iteration ends once the rest is fetched."""
        self._started = False
        self.end(ConnectionLost(f"the subscription to {self.topic!r} has been stopped"))
        await self._home.leave(self)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- fetching

    async def get(self, timeout: float | None = None) -> Any:
        """The next event.

        Args:
            timeout: Seconds to wait for it, or None for ever.

        Raises:
            TimeoutError: None came in time.
            ConnectionLost: None can come any more.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._events:
                    if self._end is not None:
                        raise ConnectionLost(self._end.reason, self._end.code)
                    await self._wait()
        except TimeoutError:
            raise TimeoutError(f"no event on {self.topic!r} within {timeout:g} s") from None
        return self._events.popleft()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif self._events:
                self._wake()  # woken and cancelled at once: somebody else may have the event

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.get()
        except ConnectionLost:
            raise StopAsyncIteration from None

    def __repr__(self) -> str:
        return f"<Subscription {self.topic!r}, {len(self._events)} events waiting>"

    # ---- filling

    def put(self, event: Any, size: int) -> None:
        """Take an event whose message had `size` bytes; over the bounds the oldest events are dropped."""
        dropped = self._events.append(event, size)
        if dropped and not self.dropped:
            logger.warning("events on %r are dropped: %d wait to be fetched", self.topic, len(self._events))
        self.dropped += dropped
        self._wake()

    def end(self, reason: ConnectionLost) -> None:
        """No more events will come."""
        if self._end is None:
            self._end = reason
        while self._waiting:
            self._wake()


class _Group:
    """The subscriptions that share one on the wire.

    Attributes:
        key: What the topic resolved to when it was subscribed; the group stays with it.
        uri: The full URI as the server told it, or the key.
        link: The connection on which it was subscribed last.
        told: Done when that connection's server has taken it in.
    """

    def __init__(self, key: str, topic: str, link: Link) -> None:
        self.key = key
        self.topic = topic
        self.uri = key
        self.accepted: bool | None = None
        self.members: list[Subscription] = []
        self.early: _Backlog[messages.Event] = _Backlog(MAX_EARLY, MAX_EARLY_SIZE)
        self.link = link
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def name(self) -> str:
        """The topic as this group's server understands it: as it was written, unless its prefix has changed since."""
        return self.topic if self.link.protocol.resolve(self.topic) == self.key else self.uri

    def names(self) -> Iterable[str]:
        """The URIs of its events. Servers that cannot tell may send back the topic as it was written."""
        return {self.uri} if self.accepted is not None else {self.uri, self.key, self.topic}

    def put(self, event: Any, size: int) -> None:
        for member in self.members:
            member.put(event, size)


class Subscriptions:
    """All subscriptions of one client, put on the wire once for each topic and again after each reconnect."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._named: dict[str, list[_Group]] = {}
        self._pending: set[_Group] = set()
        self._tasks: set[asyncio.Future[None]] = set()

    def deliver(self, link: Link, message: messages.Event, size: int) -> None:
        """Hand an event to those who subscribed to its topic, or keep it for those who may turn out to have.

        Args:
            link: The connection on which it came.
            message: The event.
            size: The bytes of its message.
        """
        groups = self._named.get(message.uri)
        if groups is None:
            # A server that shortens names does so with this client's own prefixes.
            groups = self._named.get(link.protocol.resolve(message.uri))
        if groups is None:
            for group in self._pending:
                group.early.append(message, size)
        else:
            for group in groups:
                group.put(message.event, size)

    async def join(self, subscription: Subscription, link: Link) -> None:
        """Add a subscription; the first of its topic subscribes on the wire, the others wait for it.

        Raises ConnectionLost.
        """
        key = link.protocol.resolve(subscription.topic)
        group = self._groups.get(key)
        if group is None:
            group = _Group(key, subscription.topic, link)
            self._subscribe(group, link)
            self._groups[key] = group
        group.members.append(subscription)
        told = group.told  # that of this connection: a new one gives the group another
        try:
            # Not awaited itself: who is cancelled here must not take the others along.
            await asyncio.wait({told})
            told.result()
        except BaseException:
            self._remove(subscription)
            raise
        subscription.uri, subscription.accepted = group.uri, group.accepted

    async def leave(self, subscription: Subscription) -> None:
        """Remove a subscription; the last of its topic unsubscribes on the wire."""
        soon = self._remove(subscription)
        if soon is not None:
            await asyncio.wait({soon})

    async def restore(self, link: Link) -> None:
        """Put every subscription on a new wire. Raises ConnectionLost."""
        groups = list(self._groups.values())
        for group in groups:
            self._unlist(group)
            self._subscribe(group, link)
        told = [group.told for group in groups]
        if told:
            await asyncio.wait(told)
        for each in told:
            each.result()

    def end(self, reason: ConnectionLost) -> None:
        """The client is closed for good."""
        for group in self._groups.values():
            for member in group.members:
                member.end(reason)
        for group in list(self._groups.values()):
            self._unlist(group)
        self._groups.clear()

    # ---- on the wire

    def _subscribe(self, group: _Group, link: Link) -> None:
        group.link = link
        name = group.name()
        text = link.protocol.subscribe(name)
        group.told = self._start(self._confirm(group, name, text))
        if link.is_wampkit:
            self._pending.add(group)
        else:
            self._list(group)

    async def _confirm(self, group: _Group, name: str, text: bytes) -> None:
        try:
            await group.link.send(text)
            uri, accepted = await _ask(group.link, name, group.uri)
        finally:
            self._pending.discard(group)
        if accepted is False and group.accepted is not False:
            logger.warning("the server refused the subscription to %r", group.topic)
        self._unlist(group)
        group.uri, group.accepted = uri, accepted
        for member in group.members:
            member.uri, member.accepted = uri, accepted
        if self._groups.get(group.key) is group:
            self._list(group)

    def _remove(self, subscription: Subscription) -> asyncio.Future[None] | None:
        """Remove a subscription; what is returned is done when the server has been told, if that happens soon.

        Where an answer of the server is waited for first it may take long, and goes on without the caller.
        """
        group = next((group for group in self._groups.values() if subscription in group.members), None)
        if group is None:
            return None
        group.members.remove(subscription)
        if group.members:
            return None
        del self._groups[group.key]
        self._unlist(group)
        task = self._start(self._unsubscribe(group))
        return task if group.told.done() and not self._pending else None

    async def _unsubscribe(self, group: _Group) -> None:
        await asyncio.wait({group.told})
        # A server knows one subscription where a client may know two names; which ones is clear when it has told.
        while waiting := {other.told for other in self._pending}:
            await asyncio.wait(waiting)
        names = (group.uri, group.key)
        if group.link.lost.done() or any(other.uri in names or other.key in names for other in self._groups.values()):
            return
        await group.link.send(group.link.protocol.unsubscribe(group.name()))

    # ---- books

    def _list(self, group: _Group) -> None:
        names = group.names()
        for name in names:
            self._named.setdefault(name, []).append(group)
        for message, size in group.early.take_all():
            if message.uri in names or group.link.protocol.resolve(message.uri) in names:
                group.put(message.event, size)

    def _unlist(self, group: _Group) -> None:
        for name in group.names():
            groups = self._named.get(name, [])
            if group in groups:
                groups.remove(group)
            if not groups:
                self._named.pop(name, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not warn; those who wait see it too


async def _ask(link: Link, name: str, uri: str) -> tuple[str, bool | None]:
    """The full URI of a subscription that was just sent, and whether it stands, as far as the server can tell."""
    if link.is_wampkit:
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                told = await link.call(SUBSCRIPTION, name)
            return (told, True) if isinstance(told, str) else (uri, False)
        except (CallError, TimeoutError):
            pass
    await link.round_trip(PING_TIMEOUT)
    return uri, None
