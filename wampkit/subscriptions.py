"""A client's subscriptions: iterators over events, of which several share one subscription on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from types import TracebackType
from typing import Any, Protocol, Self

from .errors import CallError, ClientError, ConnectionLost
from .link import Link

__all__ = ["Subscription", "Subscriptions"]

logger = logging.getLogger("wampkit")

ASK = "wampkit:subscription"
"""The procedure of a wampkit server that tells the URI of a subscription, or null if it was refused."""

ASK_TIMEOUT = 10.0
PING_TIMEOUT = 2.0
MAX_EARLY = 1000
"""Events kept for a subscription whose URI the server has not told yet."""


class _Home(Protocol):
    """What a subscription needs of its client."""

    async def _join(self, subscription: Subscription) -> None: ...

    async def _leave(self, subscription: Subscription) -> None: ...


class Subscription:
    """Events of one topic: `async with client.subscribe("chat:lobby") as events`, then `async for` or `get`.

    Attributes:
        topic: The topic as it was written.
        uri: The full topic URI, as far as it is known.
        accepted: Whether the server took the subscription; None where it cannot tell.
        dropped: How many events were dropped because nobody fetched them.
    """

    def __init__(self, home: _Home, topic: str, max_events: int) -> None:
        self.topic = topic
        self.uri = topic
        self.accepted: bool | None = None
        self.dropped = 0
        self._home = home
        self._max_events = max_events
        self._events: deque[Any] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._end: ConnectionLost | None = None

    async def start(self) -> Self:
        """Subscribe; returns when the server has taken it in. Raises ConnectionLost."""
        self._end = None
        await self._home._join(self)
        return self

    async def stop(self) -> None:
        """Unsubscribe, unless others share the subscription; iteration ends once the rest is fetched."""
        await self._home._leave(self)
        self.end(ConnectionLost(f"the subscription to {self.topic!r} has been stopped"))

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
                        raise self._end
                    await self._wait()
        except TimeoutError:
            raise TimeoutError(f"no event on {self.topic!r} within {timeout:g} s") from None
        return self._events.popleft()

    async def nothing(self, within: float) -> None:
        """Make sure that no event comes for `within` seconds. Raises AssertionError that shows the event."""
        try:
            event = await self.get(within)
        except TimeoutError:
            return
        raise AssertionError(f"expected no event on {self.topic!r}, got {event!r}")

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

    def put(self, event: Any) -> None:
        """Take an event in; over the bound the oldest goes."""
        if len(self._events) >= self._max_events:
            self._events.popleft()
            self.dropped += 1
            if self.dropped == 1:
                logger.warning("events on %r are dropped: %d wait to be fetched", self.topic, self._max_events)
        self._events.append(event)
        self._wake()

    def end(self, reason: ConnectionLost) -> None:
        """No more events will come."""
        if self._end is None:
            self._end = reason
        while self._waiting:
            self._wake()


class _Group:
    """The subscriptions that share one on the wire."""

    def __init__(self, key: str, topic: str) -> None:
        self.key = key
        self.topic = topic
        self.members: list[Subscription] = []
        self.early: list[tuple[str, Any]] | None = []
        self.uri = key
        self.accepted: bool | None = None
        self.ready: asyncio.Future[None] | None = None

    def take(self, uri: str, event: Any) -> None:
        if self.early is not None:
            if len(self.early) < MAX_EARLY:
                self.early.append((uri, event))
        elif uri == self.uri:
            for member in self.members:
                member.put(event)

    def settle(self, uri: str, accepted: bool | None) -> None:
        self.uri, self.accepted = uri, accepted
        early, self.early = self.early or [], None
        for member in self.members:
            member.uri, member.accepted = uri, accepted
        for told, event in early:
            self.take(told, event)


class Subscriptions:
    """All subscriptions of one client, put on the wire once for each topic and again after each reconnect."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def deliver(self, uri: str, event: Any) -> None:
        """Hand an event to those who subscribed to its topic."""
        for group in list(self._groups.values()):
            group.take(uri, event)

    async def join(self, subscription: Subscription, link: Link) -> None:
        """Add a subscription; the first of its topic subscribes on the wire, the others wait for it."""
        key = link.protocol.resolve(subscription.topic)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(key, subscription.topic)
            group.members.append(subscription)
            group.ready = asyncio.get_running_loop().create_future()
            try:
                await self._subscribe(group, link)
            except BaseException:
                self._groups.pop(key, None)
                group.ready.cancel()
                raise
            group.ready.set_result(None)
        else:
            group.members.append(subscription)
            if group.ready is not None:
                try:
                    await asyncio.shield(group.ready)
                except BaseException:
                    group.members.remove(subscription)
                    raise
            subscription.uri, subscription.accepted = group.uri, group.accepted

    async def leave(self, subscription: Subscription, link: Link | None) -> None:
        """Remove a subscription; the last of its topic unsubscribes on the wire."""
        group = next((group for group in self._groups.values() if subscription in group.members), None)
        if group is None:
            return
        group.members.remove(subscription)
        if group.members:
            return
        del self._groups[group.key]
        shared = any(other.uri == group.uri for other in self._groups.values())
        if link is not None and not shared:
            with contextlib.suppress(ConnectionLost):
                await link.send(link.protocol.unsubscribe(group.topic))

    async def restore(self, link: Link) -> None:
        """Put every subscription on a new wire. Raises ConnectionLost."""
        groups = list(self._groups.values())
        for group in groups:
            group.early = group.early or []
        async with asyncio.TaskGroup() as tasks:
            for group in groups:
                tasks.create_task(self._subscribe(group, link))

    def end(self, reason: ConnectionLost) -> None:
        """The client is closed for good."""
        for group in self._groups.values():
            for member in group.members:
                member.end(reason)
        self._groups.clear()

    async def _subscribe(self, group: _Group, link: Link) -> None:
        await link.send(link.protocol.subscribe(group.topic))
        uri, accepted = await _ask(link, group.topic, group.key)
        if accepted is False:
            logger.warning("the server refused the subscription to %r", group.topic)
        group.settle(uri, accepted)


async def _ask(link: Link, topic: str, key: str) -> tuple[str, bool | None]:
    """The full URI of a subscription that was just sent, and whether it stands, as far as the server can tell."""
    if not link.protocol.server_ident.startswith("wampkit"):
        await link.round_trip(PING_TIMEOUT)
        return key, None
    try:
        async with asyncio.timeout(ASK_TIMEOUT):
            uri = await link.call(ASK, topic)
    except ConnectionLost:
        raise
    except (ClientError, CallError, TimeoutError):
        return key, None
    return (uri, True) if isinstance(uri, str) else (key, False)
