"""The parts of a running app, made from what was declared and put together."""

from __future__ import annotations

from typing import Any, Protocol

from aiohttp import web

from ..access.addresses import AllowAddresses, BlockAddresses
from ..auth.authenticator import Authenticator
from ..concurrency.threads import ThreadPools
from ..connection.connection import Connection
from ..connection.context import ConnectionContext
from ..connection.registry import Connections, Users
from ..dispatch.calls import Calls
from ..dispatch.compiler import CompiledProcedure, CompiledTopic, known_names
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.middleware import CallNext, Incoming, split_middlewares
from ..dispatch.route_table import RouteTable
from ..dispatch.topic_messages import TopicMessages
from ..handlers.hooks import ErrorHandlers, ErrorReporter, Hooks
from ..pubsub.broker import Deliver, broker_from_url
from ..pubsub.registry import TopicRegistry
from ..telemetry.counters import Counters
from ..telemetry.logs import MOST_KINDS, MOST_KINDS_SHOWN, LogThrottle, logger_of
from .handshake import Door
from .runtime import Node
from .settings import Settings

__all__ = ["Monitor", "assemble"]


class Meter(Protocol):
    """Counts and times what passes."""

    async def message(self, message: Incoming, call_next: CallNext) -> Any:
        """The outermost middleware."""


class Monitor(Protocol):
    """What looks at a running app from outside, such as the console."""

    @property
    def meter(self) -> Meter: ...

    def attach(self, registry: TopicRegistry) -> Deliver:
        """Look at a registry of topics; returns what delivers publications to it, and counts them."""

    def page(self, request: web.Request) -> web.Response:
        """What answers a browser that asks for the socket's path."""


def assemble(
    options: Settings,
    monitor: Monitor | None,
    procedures: RouteTable[CompiledProcedure],
    served: RouteTable[CompiledTopic],
    hooks: Hooks,
    error_handlers: ErrorHandlers,
    counters: Counters,
) -> tuple[Node, Door]:
    """A node that is ready to start, and the door that lets clients in.

    Args:
        options: What the app was told, its middlewares arranged.
        monitor: What counts and times its messages, such as the console, or None.
        procedures: Its procedures, compiled.
        served: Its topics, compiled.
        hooks: Its hooks.
        error_handlers: What makes answers of its exceptions.
        counters: What it counts in.
    """
    gates, messages = split_middlewares(options.middlewares, "App", gates=True)
    middlewares = tuple(messages) if monitor is None else (monitor.meter.message, *messages)
    broker = broker_from_url(options.broker) if isinstance(options.broker, str) else options.broker
    limits = options.limits
    threads = ThreadPools(options.threads, counters, share=limits.threads_per_connection, queue=limits.thread_queue)
    throttle = LogThrottle(logger_of(Connection.__module__), MOST_KINDS_SHOWN if options.debug else MOST_KINDS)

    def report(error: BaseException, connection: Connection | None) -> None:
        node.report(error, connection)

    context = ConnectionContext(options.sockets, options.limits, counters, threads, Users(), report, throttle=throttle)
    registry = TopicRegistry(broker, context.flusher, context.eager, known=served.has)

    async def on_error(error: BaseException, connection: Connection) -> None:
        await hooks.failed(threads.hooks, error, connection)

    errors = ErrorReporter(error_handlers, on_error, threads.hooks)
    calls = Calls(
        procedures,
        registry,
        middlewares,
        threads.handlers,
        errors,
        error_uris=options.error_uri_of,
        prefixes=options.prefixes,
        debug=options.debug,
    )
    topic_messages = TopicMessages(
        served,
        registry,
        broker,
        middlewares,
        threads,
        errors,
        counters,
        limits,
        exclude_publisher=options.exclude_publisher,
        explain=options.explain_refusals,
        empty_eligible=options.empty_eligible,
    )
    node = Node(
        Connections(context.users),
        registry,
        registry.deliver if monitor is None else monitor.attach(registry),
        broker,
        Dispatcher(calls, topic_messages, options.limits, counters),
        context.eager,
        threads,
        hooks,
        counters,
        options.keepalive,
        options.goodbye,
        None
        if options.cra is None
        else Authenticator(options.cra, threads.logins, errors, counters, topic_messages.recheck),
    )
    known = known_names(procedures, served, options.prefixes)
    door = Door(
        node,
        gates,
        context,
        options.prefixes,
        known,
        options.ident,
        options.require_subprotocol,
        options.trusted_proxies,
        any(isinstance(each, AllowAddresses | BlockAddresses) for each in options.middlewares),
        None if monitor is None else monitor.page,
    )
    return node, door
