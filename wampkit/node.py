"""A running app: everything that lives from one start to the next stop, and the order in which it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any, Literal

from .broker import Broker, Deliver
from .connection import Connection
from .connections import Connections
from .counters import Counters
from .dispatch import Dispatcher
from .eager import Starter
from .keepalive import keep_alive
from .lifecycle import Hooks
from .logins import Authenticator
from .logs import logger
from .memory import warm_up_allocator
from .protocol import RESTART
from .threads import ThreadPools
from .topics import Topics

__all__ = ["Node"]

GOING_AWAY = 1001
SERVICE_RESTART = 1012

LAST_WORDS = 5.0
"""Seconds in which the topic messages that a client sent before it left must have run."""

CANCEL_PATIENCE = 5.0
"""Seconds in which the handlers of a client that left must have cleaned up after being cancelled."""

CUT_OFF_PATIENCE = 0.3
"""Seconds in which handlers that are cut off when the app stops must have cleaned up for their callers to be told."""

CLOSE_PATIENCE = 0.6
"""Seconds in which a client must answer the close frame of a drain, so that an idle server stops within one."""

FLUSH_PATIENCE = 5.0
"""Seconds in which a slow client must have read the answers that were sent before the close frame."""


class Node:
    """The parts of a running app.

    Args:
        connections: The live connections.
        topics: Who is subscribed to what.
        deliver: What gives publications to them.
        broker: What carries publications.
        dispatcher: What takes the messages.
        starter: What starts coroutines at once.
        threads: Where blocking functions run.
        hooks: The app's hooks.
        counters: What happened.
        keepalive: Seconds between pings, or None for none.
        goodbye: Whether clients are left with a close frame when the app drains.
        authenticator: What logs clients in over the socket, or None.
    """

    def __init__(
        self,
        connections: Connections,
        topics: Topics,
        deliver: Deliver,
        broker: Broker,
        dispatcher: Dispatcher,
        starter: Starter,
        threads: ThreadPools,
        hooks: Hooks,
        counters: Counters,
        keepalive: float | None,
        goodbye: Literal["close", "drop"],
        authenticator: Authenticator | None = None,
    ) -> None:
        self.connections = connections
        self.topics = topics
        self._deliver = deliver
        self.broker = broker
        self.dispatcher = dispatcher
        self._starter = starter
        self.threads = threads
        self.hooks = hooks
        self.counters = counters
        self.keepalive = keepalive
        self._goodbye = goodbye
        self.authenticator = authenticator
        self.started = False  # whether every start-up hook has run
        self.draining = False
        self._clock: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._last_words = LAST_WORDS
        self._arrivals: set[asyncio.Task[Any]] = set()
        self._farewells: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect the broker and start the clocks."""
        warm_up_allocator()
        await self.broker.start(self._deliver)
        if self.keepalive is not None:
            self._clock = asyncio.create_task(keep_alive(self.connections, self.keepalive))

    def start_periodic(self) -> None:
        """Start the app's periodic functions."""
        self._tasks.extend(self.hooks.start_periodic(self.threads.hooks))

    async def drain(self, deadline: float) -> None:
        """Begin no new work, answer the calls under way, then close every connection with 1012.

        What was begun has its answer then, and what has none was not begun.

        Args:
            deadline: Seconds that the calls under way are given; those that take longer are cancelled, and their
                callers told so.
        """
        again, self.draining = self.draining, True
        self.dispatcher.drain()
        # aiohttp takes nothing in any more once it shuts down, so no pong would arrive in the time that calls need.
        await self._end_clock()
        busy = [connection for connection in self.connections if connection.work.busy]
        work = [asyncio.ensure_future(connection.work.finish()) for connection in busy]
        if work:
            _, late = await asyncio.wait(work, timeout=deadline)
            for task in late:
                task.cancel()
            if late:
                await self._cut_off(busy)
            if late and not again:
                logger.warning("%d connections had calls that took longer than %g s", len(late), deadline)
        self._last_words = 0.0
        for connection in self.connections:
            leave = connection.close if self._goodbye == "close" else connection.hang_up
            leave(SERVICE_RESTART, RESTART)
        self._cancel_arrivals()
        await self._closed(CLOSE_PATIENCE)
        for connection in self.connections:
            if not connection.unsent:
                connection.cut(SERVICE_RESTART, RESTART, reset=False)
        await self._closed(FLUSH_PATIENCE)

    async def _cut_off(self, busy: list[Connection]) -> None:
        self.dispatcher.cut_off()
        await asyncio.gather(*[connection.work.end(0.0, CUT_OFF_PATIENCE) for connection in busy])

    async def _end_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            await asyncio.wait({self._clock})
            self._clock = None

    async def _closed(self, patience: float) -> None:
        waits = [asyncio.ensure_future(connection.wait_closed()) for connection in self.connections]
        if waits:
            _, late = await asyncio.wait(waits, timeout=patience)
            for wait in late:
                wait.cancel()

    async def stop(self) -> None:
        """Cut what is still connected and end the clocks."""
        self.draining = True
        self._last_words = 0.0
        await self._end_clock()
        if self.authenticator is not None:
            self.authenticator.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for connection in self.connections:
            connection.cut(GOING_AWAY, "the server stopped")
        self._cancel_arrivals()
        await self._closed(FLUSH_PATIENCE)
        while self._farewells:
            await asyncio.wait(set(self._farewells))

    async def close(self) -> None:
        """Free the broker and the threads, after everybody who may need them."""
        try:
            await self.broker.close()
        except Exception:
            logger.exception("the broker failed to close")
        self.threads.close()

    # ---- coming and going

    @contextlib.contextmanager
    def may_be_cancelled(self) -> Iterator[None]:
        """Around what runs for a client that arrives: nobody reads yet, so only a cancellation can end it."""
        task = asyncio.current_task()
        assert task is not None
        self._arrivals.add(task)
        try:
            yield
        finally:
            self._arrivals.discard(task)

    def _cancel_arrivals(self) -> None:
        for task in self._arrivals:
            task.cancel()

    async def farewell(self, connection: Connection) -> None:
        """Cancel a connection's work, leave its topics and tell the hooks: all of it, whoever cancels the caller."""
        task = self._starter.start(self._farewell(connection), copy_context())
        if task is not None:
            self._farewells.add(task)
            task.add_done_callback(self._farewells.discard)
            await asyncio.shield(task)

    async def _farewell(self, connection: Connection) -> None:
        try:
            stuck = await connection.work.end(self._last_words, CANCEL_PATIENCE)
            if stuck:
                connection.complaints.add("stuck", f"{stuck} handlers did not end when cancelled")
            await self.dispatcher.leave(connection)
            await self.hooks.disconnected(self.threads.hooks, connection)
        finally:
            self.connections.discard(connection)
            connection.forget()
