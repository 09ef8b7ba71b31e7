"""What an app offers while it runs: its connections and topics, publishing, and its users."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from .background import BackgroundTask
from .connection import Connection
from .connections import Connections
from .counters import Counters
from .door import Door
from .node import Node
from .settings import Settings
from .threads import ThreadPools
from .to_user import ToUser
from .topics import Topics
from .uris import expand

__all__ = ["Live"]


class Live:
    """The side of `App` that handlers, hooks and views use."""

    _settings: Settings
    _node: Node | None = None
    _door: Door | None = None

    @property
    def running(self) -> bool:
        """Whether the app has been started and not stopped."""
        return self._node is not None

    @property
    def door(self) -> Door | None:
        """The aiohttp handler of the socket, while the app runs."""
        return self._door

    @property
    def topics(self) -> Topics:
        """The topics that have subscribers, by full URI; `len(app.topics[uri])` counts them."""
        return self._running().topics

    def expand(self, name: str) -> str:
        """The full URI of a CURIE of the app's prefixes; any other name as it is. Works before the start too."""
        return expand(name, self._settings.prefixes)

    @property
    def connections(self) -> Connections:
        """The live connections."""
        return self._running().connections

    @property
    def counters(self) -> Counters:
        """What happened since the start: slow readers cut, events dropped, handshakes refused and the like."""
        return self._running().counters

    @property
    def threads(self) -> ThreadPools:
        """The worker threads of `def` functions, and how many run and wait now: `app.threads.handlers.waiting`."""
        return self._running().threads

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        exclude: Iterable[str] = (),
        eligible: Iterable[str] | None = None,
        now: bool = False,
    ) -> None:
        """Send an event to a topic's subscribers; never waits for slow receivers.

        In a handler or hook with a generator dependency it leaves when all of these have ended well, and is dropped
        if one of them or the handler fails.

        Args:
            topic: A URI or a CURIE of the app's prefixes.
            event: Anything JSON can carry.
            exclude: Session ids that shall not receive it.
            eligible: If given, only these session ids may receive it; an empty list means nobody.
            now: Whether it leaves at once, whatever becomes of the message that is being handled.

        Raises:
            ValueError: No such topic is declared.
            TypeError: JSON cannot carry the event.
            RuntimeError: The app is not running.
        """
        await self._running().topics.publish(self.expand(topic), event, exclude=exclude, eligible=eligible, now=now)

    def to_user(self, user: Any) -> ToUser:
        """All connections of a user: `await app.to_user("ann").publish(...)`, `app.to_user("ann").close()`.

        Raises:
            RuntimeError: The app is not running.
        """
        node = self._running()
        return ToUser(user, node.connections, node.topics, self.expand)

    async def recheck(self, connection: Connection) -> list[str]:
        """End the subscriptions that a connection may not have any more, after its user or roles changed.

        Asks the rules of each topic again (`requires`), but no message middlewares, which run once for a message that
        came. A SUBSCRIBE that is being decided has its rules asked again too, before it is accepted.

        Returns:
            The topics that it lost, by URI. Nothing that is published to them from now on reaches it.
        """
        return await self._running().dispatcher.recheck(connection)

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> BackgroundTask:
        """A task that lasts as long as it is entered, for the `lifespan` of a middleware or an app.

        `async with app.background("the watcher", watch): yield`. Whatever ends its coroutine is logged, given to
        `on_error`, and a second later it runs again.

        Args:
            name: What the log calls it.
            work: Makes the coroutine.
        """
        return self._running().background(name, work)

    def report(self, error: BaseException, connection: Connection | None = None) -> None:
        """Tell the app's `on_error` hooks of an exception that was not expected; does not wait, and logs nothing.

        Args:
            error: The exception.
            connection: Whose it is, or None.
        """
        self._running().report(error, connection)

    def _running(self) -> Node:
        if self._node is None:
            raise RuntimeError("the app is not running: this works from its start until its stop")
        return self._node
