"""A running app: everything that lives from one start to the next stop, and the order in which it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextvars import copy_context
from typing import Any, Literal

from ..auth.authenticator import Authenticator
from ..concurrency.background import BackgroundTask
from ..concurrency.eager import EagerTasks
from ..concurrency.threads import ThreadPools
from ..connection.connection import Connection
from ..connection.keepalive import keep_alive
from ..connection.registry import Connections
from ..dispatch.dispatcher import Dispatcher
from ..handlers.hooks import Hooks
from ..protocol.extensions import RESTART
from ..protocol.websocket import CloseCode
from ..pubsub.broker import Broker, Deliver
from ..pubsub.registry import TopicRegistry
from ..telemetry.counters import Counters
from ..telemetry.http_logs import quiet_accept_errors
from ..telemetry.logs import logger_of

__all__ = ["Node"]

logger = logger_of(__name__)

BLOCK = 16 * 1024 * 1024


def warm_up_allocator() -> None:
    """Have glibc keep the memory that asyncio reads into.

    asyncio reads up to 256 KiB at a time. glibc maps blocks of that size anew for each read, until one of them has
    been freed whole, which first happens when a client leaves: until then a server takes two to four times as long
    for a call. Freeing one big block raises that threshold at once. It is never touched, so it costs no memory.
    """
    block = bytes(BLOCK)
    del block


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

FAREWELL_PATIENCE = 5.0
"""Seconds in which the hooks for clients that left must have ended when the app stops; then they are cancelled."""

BROKER_PATIENCE = 5.0
"""Seconds in which the broker must have closed."""


class Node:
    """The parts of a running app.

    Args:
        connections: The live connections.
        registry: Who is subscribed to what.
        deliver: What gives publications to them.
        broker: What carries publications.
        dispatcher: What takes the messages.
        eager: What starts coroutines at once.
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
        registry: TopicRegistry,
        deliver: Deliver,
        broker: Broker,
        dispatcher: Dispatcher,
        eager: EagerTasks,
        threads: ThreadPools,
        hooks: Hooks,
        counters: Counters,
        keepalive: float | None,
        goodbye: Literal["close", "drop"],
        authenticator: Authenticator | None = None,
    ) -> None:
        self.connections = connections
        self.registry = registry
        self._deliver = deliver
        self.broker = broker
        self.dispatcher = dispatcher
        self._eager = eager
        self.threads = threads
        self.hooks = hooks
        self.counters = counters
        self.keepalive = keepalive
        self._goodbye = goodbye
        self.authenticator = authenticator
        self.started = False  # whether every start-up hook has run
        self.draining = False
        self._clock: BackgroundTask | None = None
        self._periodic: list[BackgroundTask] = []
        self._reports: set[asyncio.Task[None]] = set()
        self._last_words = LAST_WORDS
        self._arrivals: set[asyncio.Task[Any]] = set()
        self._farewells: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect the broker and start the clocks."""
        quiet_accept_errors()
        warm_up_allocator()
        await self.broker.start(self._deliver)
        if (interval := self.keepalive) is not None:
            self._clock = self.background(
                "the keepalive", lambda: keep_alive(self.connections, interval, _keepalive_failed)
            )
            self._clock.start()

    def start_periodic(self, *, first: bool) -> None:
        """Start the app's periodic functions; those for one process only in the first."""
        self._periodic = self.hooks.start_periodic(self.threads.hooks, first=first)

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> BackgroundTask:
        """A task for all connections, not started yet, whose failures the app's `on_error` hooks learn of."""

        async def report(error: BaseException) -> None:
            await self.hooks.failed(self.threads.hooks, error, None)

        return BackgroundTask(name, work, report)

    def report(self, error: BaseException, connection: Connection | None) -> None:
        """Run the app's `on_error` hooks in a task of their own."""
        task = asyncio.create_task(self.hooks.failed(self.threads.hooks, error, connection))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def drain(self, deadline: float) -> None:
        """Begin no new work, answer the calls under way, then close every connection with 1012.

        What was begun has its answer then, and what has none was not begun.

        What fails on the way is logged: the app must still be stopped.

        Args:
            deadline: Seconds that the calls under way are given; those that take longer are cancelled, and their
                callers told so.
        """
        try:
            await self._drain(deadline)
        except Exception:
            logger.exception("draining failed; clients that are left are cut")

    async def _drain(self, deadline: float) -> None:
        again, self.draining = self.draining, True
        self.dispatcher.drain()
        # aiohttp takes nothing in any more once it shuts down, so no pong would arrive in the time that calls need.
        await self._end_clock()
        busy = [connection for connection in self.connections if connection.tasks.busy]
        work = [asyncio.ensure_future(connection.tasks.finish()) for connection in busy]
        if work:
            _, late = await asyncio.wait(work, timeout=deadline)
            for task in late:
                task.cancel()
            if late:
                await self._cut_off(busy)
            if late and not again:
                logger.warning("%d connections had calls that took longer than %g s", len(late), deadline)
        self._last_words = 0.0
        self._each(self._say_goodbye)
        self._cancel_arrivals()
        await self._closed(CLOSE_PATIENCE)
        self._each(_cut_unless_it_reads)
        await self._closed(FLUSH_PATIENCE)

    def _say_goodbye(self, connection: Connection) -> None:
        leave = connection.close if self._goodbye == "close" else connection.hang_up
        leave(CloseCode.SERVICE_RESTART, RESTART)

    def _each(self, end: Callable[[Connection], None]) -> None:
        """End every connection; one that cannot be ended keeps no other."""
        for connection in self.connections:
            try:
                end(connection)
            except Exception:
                logger.exception("connection %s could not be ended", connection.id)

    async def _cut_off(self, busy: list[Connection]) -> None:
        self.dispatcher.calls.answer_cancelled()
        await asyncio.gather(*[connection.tasks.end(0.0, CUT_OFF_PATIENCE) for connection in busy])

    async def _end_clock(self) -> None:
        clock, self._clock = self._clock, None
        if clock is not None:
            await clock.stop()

    async def _closed(self, patience: float) -> None:
        waits = [asyncio.ensure_future(connection.wait_closed()) for connection in self.connections]
        if waits:
            _, late = await asyncio.wait(waits, timeout=patience)
            for wait in late:
                wait.cancel()

    async def stop(self) -> None:
        """Cut what is still connected and end the clocks. A step that fails is logged and keeps no other."""
        self.draining = True
        self._last_words = 0.0
        for step in (self._end_clock, self._end_logins, self._end_periodic, self._end_connections, self._end_farewells):
            try:
                await step()
            except Exception:
                logger.exception("a step of the stop failed; it goes on")

    async def _end_logins(self) -> None:
        if self.authenticator is not None:
            self.authenticator.close()

    async def _end_periodic(self) -> None:
        periodic, self._periodic = self._periodic, []
        await asyncio.gather(*(each.stop() for each in periodic))

    async def _end_connections(self) -> None:
        self._each(lambda connection: connection.cut(CloseCode.GOING_AWAY, "the server stopped"))
        self._cancel_arrivals()
        await self._closed(FLUSH_PATIENCE)

    async def _end_farewells(self) -> None:
        """Wait for the hooks of clients that left, and cancel those that take too long."""
        late = await _ended(self._farewells, FAREWELL_PATIENCE)
        if late:
            logger.warning(
                "the on_unsubscribe and on_disconnect hooks of %d clients took longer than %g s and are cancelled",
                len(late),
                FAREWELL_PATIENCE,
            )
            for task in late:
                task.cancel()
            await _ended(self._farewells, CUT_OFF_PATIENCE)

    async def close(self) -> None:
        """Free the broker and the threads, after all that may need them."""
        late = await _ended(self._reports, FAREWELL_PATIENCE)
        for task in late:
            task.cancel()
        try:
            async with asyncio.timeout(BROKER_PATIENCE):
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
        task = self._eager.start(self._farewell(connection), copy_context())
        if task is not None:
            self._farewells.add(task)
            task.add_done_callback(self._farewells.discard)
            await asyncio.shield(task)

    async def _farewell(self, connection: Connection) -> None:
        self.connections.discard(connection)  # it is gone, however long the hooks take
        try:
            stuck = await connection.tasks.end(self._last_words, CANCEL_PATIENCE)
            if stuck:
                connection.log.add("stuck", f"{stuck} handlers did not end when cancelled")
            await self.dispatcher.topic_messages.unsubscribe_all(connection)
            await self.hooks.disconnected(self.threads.hooks, connection)
        finally:
            self.connections.discard(connection)  # what ran meanwhile may have given it another user
            connection.forget()


async def _ended(tasks: set[asyncio.Task[None]], patience: float) -> set[asyncio.Task[None]]:
    """Wait until a set that tasks leave at their end is empty; gives those that are left after `patience` seconds."""
    end = asyncio.get_running_loop().time() + patience
    while tasks and (rest := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait(set(tasks), timeout=rest)
    return set(tasks)


def _keepalive_failed(connection: Connection, error: Exception) -> None:
    try:
        connection.keepalive_failed(error)
    except Exception:
        logger.exception("connection %s could not be cut", connection.id)


def _cut_unless_it_reads(connection: Connection) -> None:
    if not connection.unsent:
        connection.cut(CloseCode.SERVICE_RESTART, RESTART, reset=False)
