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
from ..dispatch.calls import Answers, Calls
from ..dispatch.compiler import CompiledProcedure, CompiledTopic, known_names
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.middleware import CallNext, Incoming, split
from ..dispatch.route_table import Names, Table
from ..dispatch.topic_messages import TopicMessages
from ..handlers.hooks import ErrorHandlers, ErrorReporter, Hooks
from ..protocol.uris import expand
from ..pubsub.broker import Deliver, broker_from_url
from ..pubsub.topics import Topics
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

    def counting(self, topics: Topics) -> Deliver:
        """Delivers publications to topics, and counts them."""


class Monitor(Protocol):
    """What looks at a running app from outside, such as the console."""

    @property
    def meter(self) -> Meter: ...

    def page(self, request: web.Request) -> web.Response:
        """What answers a browser that asks for the socket's path."""


def assemble(
    options: Settings,
    monitor: Monitor | None,
    procedures: Table[CompiledProcedure],
    served: Table[CompiledTopic],
    hooks: Hooks,
    error_handlers: ErrorHandlers,
) -> tuple[Node, Door]:
    """A node that is ready to start, and the door that lets clients in.

    Args:
        options: What the app was told, its middlewares arranged.
        monitor: What counts and times its messages, such as the console, or None.
        procedures: Its procedures, compiled.
        served: Its topics, compiled.
        hooks: Its hooks.
        error_handlers: What makes answers of its exceptions.
    """
    gates, messages = split(options.middlewares, "App", gates=True)
    middlewares = tuple(messages) if monitor is None else (monitor.meter.message, *messages)
    broker = broker_from_url(options.broker) if isinstance(options.broker, str) else options.broker
    limits, counters = options.limits, Counters()
    threads = ThreadPools(options.threads, counters, share=limits.threads_per_connection, queue=limits.thread_queue)
    throttle = LogThrottle(logger_of(Connection.__module__), MOST_KINDS_SHOWN if options.debug else MOST_KINDS)

    def report(error: BaseException, connection: Connection | None) -> None:
        node.report(error, connection)

    context = ConnectionContext(options.sockets, options.limits, counters, threads, Users(), report, throttle=throttle)
    topics = Topics(
        broker,
        context.flusher,
        context.eager,
        known=lambda uri: served.find(uri) is not None,
        expand=lambda name: expand(name, options.prefixes),
    )

    async def on_error(error: BaseException, connection: Connection) -> None:
        await hooks.failed(threads.hooks, error, connection)

    errors = ErrorReporter(error_handlers, on_error, threads.hooks)
    names = Names(options.limits.uri_length, counters)
    answers = Answers(error_uris=options.error_uri_of, prefixes=options.prefixes, debug=options.debug)
    calls = Calls(procedures, names, topics, middlewares, threads.handlers, errors, answers)
    topic_messages = TopicMessages(
        served,
        names,
        topics,
        middlewares,
        threads,
        errors,
        counters,
        most=options.limits.subscriptions,
        most_bytes=options.limits.subscriptions_size,
        most_ids=options.limits.session_ids,
        exclude_publisher=options.exclude_publisher,
        explain=options.explain_refusals,
        empty_eligible=options.empty_eligible,
    )
    node = Node(
        Connections(context.users),
        topics,
        topics.deliver if monitor is None else monitor.meter.counting(topics),
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
