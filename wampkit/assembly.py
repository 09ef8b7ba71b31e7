"""The parts of a running app, made from what was declared and put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .authentication import Cra
from .broker import Broker, broker_from_url
from .calls import Answers, Calls
from .chains import Procedure, ServedTopic
from .connection import Connection
from .connections import Connections
from .console import Console
from .console_page import show_console
from .counters import Counters
from .dispatch import Dispatcher
from .door import Door
from .errors import ERROR_URIS, DeclarationError
from .failures import ErrorHandlers, Failures
from .forwarded import TrustedProxies
from .gates import AllowAddresses, BlockAddresses
from .hub import Hub, SocketOptions
from .lifecycle import Hooks
from .limits import Limits
from .logins import Authenticator
from .logs import MOST_KINDS, MOST_KINDS_SHOWN, LogThrottle
from .middleware import split
from .names import Names
from .node import Node
from .router import Table
from .serving import known_names
from .subscribing import Subscribing
from .threads import ThreadPools
from .topics import Topics
from .uris import expand

__all__ = ["Options", "assemble", "replaced_uris"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an app was told; see `App` for what each means.

    Raises:
        DeclarationError: An option or a middleware cannot work.
    """

    prefixes: Mapping[str, str]
    middlewares: tuple[Any, ...]
    trusted_proxies: TrustedProxies | None
    debug: bool
    exclude_publisher: bool
    explain_refusals: bool
    cra: Cra | None
    require_subprotocol: bool
    error_uris: Mapping[str, str]
    ident: str
    broker: Broker | str
    keepalive: float | None
    limits: Limits
    sockets: SocketOptions
    goodbye: Literal["close", "drop"]
    threads: int
    console: Console | None = None

    def __post_init__(self) -> None:
        if self.sockets.malformed not in ("close", "ignore"):
            raise DeclarationError(f"malformed is 'close' or 'ignore', not {self.sockets.malformed!r}")
        if self.keepalive is not None and not self.keepalive > 0:
            raise DeclarationError("keepalive is a number of seconds above 0, or None")
        if self.threads < 1 or not self.sockets.close_timeout > 0:
            raise DeclarationError("threads and close_timeout must be above 0")
        if not isinstance(self.limits, Limits):
            raise DeclarationError(f"limits is a wampkit.Limits, such as Limits(calls=100), not {self.limits!r}")
        if self.goodbye not in ("close", "drop"):
            raise DeclarationError(f"goodbye is 'close' or 'drop', not {self.goodbye!r}")
        split(self.middlewares, "App", gates=True)


def replaced_uris(error_uris: Mapping[str, str], prefixes: Mapping[str, str]) -> dict[str, str]:
    """The error URI of each kind, some of them the app's own.

    Raises:
        DeclarationError: There is no such kind.
    """
    unknown = error_uris.keys() - ERROR_URIS.keys()
    if unknown:
        raise DeclarationError(f"error_uris: no kind {min(unknown)!r}; the kinds are {', '.join(ERROR_URIS)}")
    return {**ERROR_URIS, **{kind: expand(uri, prefixes) for kind, uri in error_uris.items()}}


def assemble(
    options: Options,
    procedures: Table[Procedure],
    served: Table[ServedTopic],
    hooks: Hooks,
    error_handlers: ErrorHandlers,
) -> tuple[Node, Door]:
    """A node that is ready to start, and the door that lets clients in.

    Args:
        options: What the app was told.
        procedures: Its procedures, compiled.
        served: Its topics, compiled.
        hooks: Its hooks.
        error_handlers: What makes answers of its exceptions.
    """
    gates, messages = split(options.middlewares, "App", gates=True)
    console = options.console
    middlewares = tuple(messages) if console is None else (console.meter.message, *messages)
    broker = broker_from_url(options.broker) if isinstance(options.broker, str) else options.broker
    limits, counters = options.limits, Counters()
    threads = ThreadPools(options.threads, counters, share=limits.threads_per_connection, queue=limits.thread_queue)
    throttle = LogThrottle(MOST_KINDS_SHOWN if options.debug else MOST_KINDS)
    hub = Hub(options.sockets, options.limits, counters, throttle=throttle)
    topics = Topics(broker, hub.flusher, known=lambda uri: served.find(uri) is not None)

    async def on_error(error: BaseException, connection: Connection) -> None:
        await hooks.failed(threads.hooks, error, connection)

    failures = Failures(error_handlers, on_error)
    names = Names(options.limits.uri_length, counters)
    answers = Answers(error_uris=options.error_uris, prefixes=options.prefixes, debug=options.debug)
    calls = Calls(procedures, names, topics, middlewares, threads.handlers, failures, answers)
    subscribing = Subscribing(
        served,
        names,
        topics,
        middlewares,
        threads,
        failures,
        counters,
        most=options.limits.subscriptions,
        most_ids=options.limits.session_ids,
        exclude_publisher=options.exclude_publisher,
        explain=options.explain_refusals,
    )
    node = Node(
        Connections(hub.users),
        topics,
        topics.deliver if console is None else console.meter.counting(topics),
        broker,
        Dispatcher(calls, subscribing, options.limits, counters),
        hub.starter,
        threads,
        hooks,
        counters,
        options.keepalive,
        options.goodbye,
        None
        if options.cra is None
        else Authenticator(options.cra, threads.logins, failures, counters, subscribing.recheck),
    )
    known = known_names(procedures, served, options.prefixes)
    door = Door(
        node,
        gates,
        hub,
        options.prefixes,
        known,
        options.ident,
        options.require_subprotocol,
        options.trusted_proxies,
        any(isinstance(each, AllowAddresses | BlockAddresses) for each in options.middlewares),
        None if console is None else show_console,
    )
    return node, door
