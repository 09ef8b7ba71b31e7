"""A running app: its parts, put together at a start, and the order in which they end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextvars import copy_context
from typing import Any, Protocol

from aiohttp import web

from ..auth.authenticator import Authenticator
from ..concurrency.background import BackgroundTask
from ..concurrency.threads import ThreadPools
from ..connection.connection import Connection
from ..connection.registry import ConnectionContext, ConnectionRegistry
from ..connection.server_connection import ServerConnection
from ..connection.sockets import keep_alive
from ..dispatch.builtins import publish_procedure, subscription_procedure
from ..dispatch.calls import Calls
from ..dispatch.compiler import CompiledProcedure, CompiledTopic, compile_routes
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.middleware import CallNext, Incoming, Middleware, split_middlewares
from ..dispatch.route_table import RouteTable
from ..dispatch.topic_messages import TopicMessages
from ..handlers.hooks import ErrorReporter, HookRunner, Hooks
from ..protocol.extensions import RESTART
from ..protocol.websocket import CloseCode
from ..pubsub.broker import Broker, Deliver, broker_from_url
from ..pubsub.registry import TopicRegistry
from ..router import Route
from ..sessions.middleware import reads_sessions
from ..sessions.session import Session, session_of
from ..telemetry.counters import Counters
from ..telemetry.http_logs import quiet_accept_errors
from ..telemetry.logs import MAX_KINDS, MAX_KINDS_IN_DEBUG, LogThrottle, logger_of
from .settings import Settings

__all__ = ["Monitor", "Runtime", "compile_app"]

logger: logging.Logger = logger_of(__name__)

PENDING_TIMEOUT = 5.0
"""Seconds to finish topic messages received before a disconnect."""

CANCEL_TIMEOUT = 5.0
"""Seconds for the handlers of a disconnected client to clean up after being cancelled."""

CUT_OFF_TIMEOUT = 0.3
"""Seconds for handlers that the stop cancels to clean up, so that their callers can be told."""

CLOSE_TIMEOUT = 0.6
"""Seconds for a client to answer the close frame of a drain, so that an idle server stops within one."""

FLUSH_TIMEOUT = 5.0
"""Seconds for a slow client to read the answers that were sent before the close frame."""

HOOKS_TIMEOUT = 5.0
"""Seconds for the hooks of disconnected clients to end when the app stops; then they are cancelled."""

BROKER_TIMEOUT = 5.0
"""Seconds for the broker to close."""


class Monitor(Protocol):
    """The console, as far as a runtime knows it."""

    async def message(self, message: Incoming, call_next: CallNext) -> Any:
        """The outermost message middleware: counts and times messages."""

    def counting(self, registry: TopicRegistry) -> Deliver:
        """A function that gives publications to the subscribers of a registry, and counts them."""

    def routes(self) -> Iterable[Route]:
        """The procedures and topics of the console."""

    def page(self, request: web.Request) -> web.Response:
        """Answer a browser that opens the socket's path."""

    def lifespan(self, app: Any) -> contextlib.AbstractAsyncContextManager[None]:
        """The context that is entered while the app runs."""


class Runtime:
    """The parts of a running app, from one start to the next stop.

    Args:
        settings: The app's options.
        routes: What the app declares, with full URIs.
        hooks: The app's hooks and error handlers.
        monitor: Makes the console of this runtime; None for an app without one.

    Raises:
        DeclarationError: A route cannot work.
    """

    def __init__(
        self,
        settings: Settings,
        routes: Iterable[Route],
        hooks: Hooks,
        monitor: Callable[[Runtime], Monitor] | None = None,
    ) -> None:
        limits = settings.limits
        self.settings = settings
        self.routes: tuple[Route, ...] = tuple(routes)
        self.counters: Counters = Counters()
        self.threads: ThreadPools = ThreadPools(
            settings.threads, self.counters, share=limits.threads_per_connection, queue=limits.thread_queue
        )
        self.hooks: HookRunner = HookRunner(hooks, self.threads.hooks)
        self.connections: ConnectionRegistry = ConnectionRegistry()
        throttle = LogThrottle(
            logger_of(ServerConnection.__module__), MAX_KINDS_IN_DEBUG if settings.debug else MAX_KINDS
        )
        self.context: ConnectionContext = ConnectionContext(
            settings, limits, self.counters, self.threads, self.connections, self.report, throttle
        )
        errors = ErrorReporter(hooks.error_handlers, self.hooks.failed, self.threads.hooks)
        self.monitor: Monitor | None = None if monitor is None else monitor(self)

        self.authenticator: Authenticator | None = self._make_authenticator(errors)
        self.procedures: RouteTable[CompiledProcedure]
        self.topics: RouteTable[CompiledTopic]
        self.procedures, self.topics = compile_app(
            settings, self.routes, *self._builtin_routes(), counters=self.counters
        )

        self.broker: Broker = broker_from_url(settings.broker) if isinstance(settings.broker, str) else settings.broker
        self.registry: TopicRegistry = TopicRegistry(
            self.broker, self.context.flusher, self.context.eager, known=self.topics.has
        )
        self.middlewares: tuple[Middleware, ...] = settings.with_default_gates
        messages = self._message_middlewares()
        self.calls: Calls = Calls(
            self.procedures,
            self.registry,
            messages,
            self.threads.handlers,
            errors,
            error_uris=settings.error_uri_of,
            prefixes=settings.prefixes,
            debug=settings.debug,
        )
        self.topic_messages: TopicMessages = TopicMessages(
            self.topics,
            self.registry,
            self.broker,
            messages,
            self.threads,
            errors,
            self.counters,
            limits,
            exclude_publisher=settings.exclude_publisher,
            explain=settings.explain_refusals,
            empty_eligible=settings.empty_eligible,
        )
        self.dispatcher: Dispatcher = Dispatcher(self.calls, self.topic_messages, limits, self.counters)

        self.draining: bool = False
        self._pending_timeout = PENDING_TIMEOUT
        self._keepalive: BackgroundTask | None = None
        self._periodic: list[BackgroundTask] = []
        self._reports: set[asyncio.Task[None]] = set()
        self._arrivals: set[asyncio.Task[Any]] = set()
        self._departures: set[asyncio.Task[None]] = set()

    # ---- parts

    def _make_authenticator(self, errors: ErrorReporter) -> Authenticator | None:
        cra = self.settings.cra
        if cra is None:
            return None
        # Its procedures are routes, from which `topic_messages` is made: so that does not exist yet.
        recheck = lambda connection: self.topic_messages.recheck(connection)  # noqa: E731
        return Authenticator(cra, self.threads.logins, errors, self.counters, recheck)

    def _builtin_routes(self) -> list[Route]:
        routes = [subscription_procedure(), publish_procedure(lambda: self.topic_messages)]
        if self.authenticator is not None:
            routes += self.authenticator.procedures()
        if self.monitor is not None:
            routes += self.monitor.routes()
        return routes

    def _message_middlewares(self) -> tuple[Any, ...]:
        messages = split_middlewares(self.middlewares, "App", gates=True)[1]
        return (*([] if self.monitor is None else [self.monitor.message]), *messages)

    # ---- start

    async def start(self) -> None:
        """Connect the broker and start the keepalive."""
        quiet_accept_errors()
        warm_up_allocator()
        deliver = self.registry.deliver if self.monitor is None else self.monitor.counting(self.registry)
        await self.broker.start(deliver)
        if (interval := self.settings.keepalive) is not None:
            self._keepalive = self.background(
                "the keepalive", lambda: keep_alive(self.connections, interval, _keepalive_failed)
            )
            self._keepalive.start()

    def start_periodic(self, *, first: bool) -> None:
        """Start the app's periodic functions; those for one process only in the first."""
        self._periodic = self.hooks.start_periodic(first=first)

    def background(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> BackgroundTask:
        """A task for all connections, not started yet, whose errors are given to the app's `on_error` hooks."""
        return BackgroundTask(name, work, self.hooks.failed)

    def report(self, error: BaseException, connection: Connection | None = None) -> None:
        """Run the app's `on_error` hooks in a task of their own."""
        task = asyncio.create_task(self.hooks.failed(error, connection))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def drain(self, deadline: float) -> None:
        """Begin no new work, answer the running calls, then close every connection with 1012.

        Every call that was begun has an answer then; one without an answer was not begun. Errors are logged: the app
        must still be stopped.

        Args:
            deadline: Seconds for the running calls; those that take longer are cancelled, and their callers told so.
        """
        try:
            await self._drain(deadline)
        except Exception:
            logger.exception("draining failed; clients that are left are cut")

    async def _drain(self, deadline: float) -> None:
        again, self.draining = self.draining, True
        self.dispatcher.drain()
        # aiohttp takes nothing in any more once it shuts down, so no pong would arrive in the time that calls need.
        await self._end_keepalive()
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
        self._pending_timeout = 0.0
        self._end_each(self._close_or_drop)
        self._cancel_arrivals()
        await self.wait_closed(CLOSE_TIMEOUT)
        self._end_each(_cut_unless_it_reads)
        await self.wait_closed(FLUSH_TIMEOUT)

    def _close_or_drop(self, connection: ServerConnection) -> None:
        leave = connection.close if self.settings.goodbye == "close" else connection.hang_up
        leave(CloseCode.SERVICE_RESTART, RESTART)

    def _end_each(self, end: Callable[[ServerConnection], None]) -> None:
        """End every connection; one that cannot be ended keeps no other."""
        for connection in self.connections:
            try:
                end(connection)
            except Exception:
                logger.exception("connection %s could not be ended", connection.id)

    async def _cut_off(self, busy: list[ServerConnection]) -> None:
        self.calls.answer_cancelled()
        await asyncio.gather(*[connection.tasks.end(0.0, CUT_OFF_TIMEOUT) for connection in busy])

    async def _end_keepalive(self) -> None:
        keepalive, self._keepalive = self._keepalive, None
        if keepalive is not None:
            await keepalive.stop()

    async def wait_closed(self, timeout: float) -> None:
        """Wait until every connection has ended, at most `timeout` seconds."""
        waits = [asyncio.ensure_future(connection.wait_closed()) for connection in self.connections]
        if waits:
            _, late = await asyncio.wait(waits, timeout=timeout)
            for wait in late:
                wait.cancel()

    async def stop(self) -> None:
        """Cut the connections that are left and end the timers. A step that fails is logged, and the next one runs."""
        self.draining = True
        self._pending_timeout = 0.0
        for step in (
            self._end_keepalive,
            self._end_logins,
            self._end_periodic,
            self._end_connections,
            self._end_departures,
        ):
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
        self._end_each(lambda connection: connection.cut(CloseCode.GOING_AWAY, "the server stopped"))
        self._cancel_arrivals()
        await self.wait_closed(FLUSH_TIMEOUT)

    async def _end_departures(self) -> None:
        """Wait for the hooks of disconnected clients, and cancel those that take too long."""
        late = await _ended(self._departures, HOOKS_TIMEOUT)
        if late:
            logger.warning(
                "the on_unsubscribe and on_disconnect hooks of %d clients took longer than %g s and are cancelled",
                len(late),
                HOOKS_TIMEOUT,
            )
            for task in late:
                task.cancel()
            await _ended(self._departures, CUT_OFF_TIMEOUT)

    async def close(self) -> None:
        """Close the broker and the threads, after everything that may need them."""
        late = await _ended(self._reports, HOOKS_TIMEOUT)
        for task in late:
            task.cancel()
        try:
            async with asyncio.timeout(BROKER_TIMEOUT):
                await self.broker.close()
        except Exception:
            logger.exception("the broker failed to close")
        self.threads.close()

    # ---- connect and disconnect

    @contextlib.contextmanager
    def cancel_on_stop(self) -> Iterator[None]:
        """Context manager around the code before the first read, which only a cancellation can end."""
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

    async def disconnect(self, connection: ServerConnection) -> None:
        """End a connection's work and subscriptions and run the disconnect hooks, even if the caller is cancelled."""
        task = self.context.eager.start(self._disconnect(connection), copy_context())
        if task is not None:
            self._departures.add(task)
            task.add_done_callback(self._departures.discard)
            await asyncio.shield(task)

    async def _disconnect(self, connection: ServerConnection) -> None:
        self.connections.discard(connection)  # it is gone, however long the hooks take
        try:
            stuck = await connection.tasks.end(self._pending_timeout, CANCEL_TIMEOUT)
            if stuck:
                connection.log.add("stuck", f"{stuck} handlers did not end when cancelled")
            await self.topic_messages.unsubscribe_all(connection)
            await self.hooks.disconnected(connection)
        finally:
            self.connections.discard(connection)  # what ran meanwhile may have given it another user
            connection.forget()


async def _ended(tasks: set[asyncio.Task[None]], timeout: float) -> set[asyncio.Task[None]]:
    """Wait until a set is empty that tasks leave at their end; returns those that are left after `timeout` seconds."""
    end = asyncio.get_running_loop().time() + timeout
    while tasks and (rest := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.wait(set(tasks), timeout=rest)
    return set(tasks)


def _keepalive_failed(connection: ServerConnection, error: Exception) -> None:
    try:
        connection.keepalive_failed(error)
    except Exception:
        logger.exception("connection %s could not be cut", connection.id)


def _cut_unless_it_reads(connection: ServerConnection) -> None:
    if not connection.unsent:
        connection.cut(CloseCode.SERVICE_RESTART, RESTART, reset=False)


def compile_app(
    settings: Settings, routes: Iterable[Route], *builtins: Route, counters: Counters | None = None
) -> tuple[RouteTable[CompiledProcedure], RouteTable[CompiledTopic]]:
    """Compile the procedures and topics of an app.

    Args:
        settings: The app's options.
        routes: What the app declares, with full URIs.
        builtins: The routes of wampkit itself.
        counters: The app's counters, if it is about to run.

    Raises:
        DeclarationError: A route cannot work.
    """
    return compile_routes(
        routes,
        *builtins,
        longest=settings.limits.uri_length,
        counters=counters or Counters(),
        default=settings.requires,
        cra=settings.cra is not None,
        given={Session: session_of if reads_sessions(settings.middlewares) else _NO_SESSIONS},
    )


_NO_SESSIONS = "this app reads no sessions; put Sessions(storage) into App(middlewares=[...])"

BLOCK = 16 * 1024 * 1024


def warm_up_allocator() -> None:
    """Have glibc keep the memory that asyncio reads into.

    asyncio reads up to 256 KiB at a time. glibc maps blocks of that size anew for each read, until one of them has
    been freed whole, which first happens when a client leaves: until then a server takes two to four times as long
    for a call. Freeing one big block raises that threshold at once. It is never touched, so it costs no memory.
    """
    block = bytes(BLOCK)
    del block
