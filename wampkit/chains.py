"""How a message reaches its handler, folded together once at start.

A route without middlewares, timeout, variables and injected parameters pays for none of them: see `is_plain`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import messages
from .binding import Plan
from .connection import Connection
from .depends import Scope
from .errors import NotFound, WampError, quote
from .incoming import Call, Incoming
from .middleware import CallNext, fold
from .requirements import guarded
from .router import Declaration
from .threads import Threads
from .topics import Topic, Topics

__all__ = ["CallWay", "Procedure", "ServedTopic", "Way", "call_way", "is_plain", "run_plan", "way"]

CallWay = Callable[[Connection, messages.Call, Mapping[str, str]], Awaitable[Any]]
"""Runs a call; the result is what the handler or a middleware returns."""

Way = CallNext

_NO_KEYWORDS: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Procedure:
    """A procedure ready to run; one of wampkit's own passes no middleware."""

    route: Declaration
    plan: Plan
    middlewares: tuple[Any, ...]
    rules: tuple[Any, ...] = ()
    own: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class ServedTopic:
    """A topic ready to be used; messages to one of wampkit's own pass no middleware."""

    route: Declaration
    plan: Plan | None
    on_subscribe: tuple[Plan, ...]
    on_unsubscribe: tuple[Plan, ...]
    middlewares: tuple[Any, ...]
    may_subscribe: tuple[Any, ...] = ()
    may_publish: tuple[Any, ...] = ()
    own: bool = False


def call_way(
    procedure: Procedure | None, outer: tuple[Any, ...], threads: Threads, register: Topics, timeout_uri: str
) -> CallWay:
    """The way of a procedure's calls, or for None that of calls to unknown procedures.

    Args:
        procedure: The procedure.
        outer: The app's middlewares, outermost first.
        threads: Where blocking handlers run.
        register: Who is subscribed, for handlers that ask.
        timeout_uri: The error URI of a call that takes too long.
    """
    if procedure is None:
        return _with_message(None, fold(outer, _refuse))
    plan = procedure.plan
    layers = () if procedure.own else (*outer, *procedure.middlewares)
    timeout = procedure.route.timeout

    def handler(message: Incoming) -> Awaitable[Any]:
        return run_plan(plan, plan.wire.bind(message.args), message, threads, register)  # type: ignore[attr-defined]  # it is a Call

    innermost: CallNext = handler
    if plan.plain:
        function, bind = plan.function, plan.wire.bind
        innermost = lambda message: function(*bind(message.args))  # type: ignore[attr-defined]  # noqa: E731
    run = _with_message(procedure.route, fold(layers, guarded(procedure.rules, innermost)))
    return run if timeout is None else _limited(run, procedure.route, timeout, timeout_uri)


def is_plain(procedure: Procedure, outer: tuple[Any, ...]) -> bool:
    """Whether nothing stands between a call and the handler, so that it may be called without going this way."""
    exact = procedure.route.pattern is None and procedure.route.timeout is None
    return exact and procedure.plan.plain and not (outer or procedure.middlewares or procedure.rules)


def _refuse(message: Incoming) -> Awaitable[Any]:
    raise NotFound(f"no such procedure: {quote(message.uri)}")


def _with_message(route: Declaration | None, chain: CallNext) -> CallWay:
    def run(connection: Connection, message: messages.Call, variables: Mapping[str, str]) -> Awaitable[Any]:
        return chain(
            Call(
                connection=connection,
                uri=message.uri,
                route=route,
                variables=variables,
                id=message.id,
                args=message.args,
            )
        )

    return run


def _limited(run: CallWay, route: Declaration, seconds: float, uri: str) -> CallWay:
    async def limited(connection: Connection, message: messages.Call, variables: Mapping[str, str]) -> Any:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await run(connection, message, variables)
        except TimeoutError:
            if not limit.expired():
                raise
            raise WampError(uri, f"{route.declared}: no result within {seconds:g} s") from None

    return limited


def way(
    topic: ServedTopic | None,
    outer: tuple[Any, ...],
    rules: tuple[Any, ...],
    innermost: Callable[[Any, Incoming], Awaitable[Any]],
) -> Way:
    """The way of one type of topic message to `innermost(topic, message)`; None stands for unknown topics.

    Args:
        topic: The topic.
        outer: The app's middlewares, outermost first.
        rules: What must hold for the message.
        innermost: What runs it.
    """
    layers = outer if topic is None else () if topic.own else (*outer, *topic.middlewares)
    return fold(layers, guarded(rules, lambda message: innermost(topic, message)))


def run_plan(
    plan: Plan, values: Sequence[Any], message: Incoming, threads: Threads, register: Topics
) -> Awaitable[Any]:
    """Call a handler with the wire's values and what it wants to be given."""
    if not plan.injected:
        return plan.call(threads, message.connection, values, _NO_KEYWORDS)
    topic = Topic(message.uri, register)
    scope = Scope(message.connection, message, topic, message.variables, threads)
    return plan.run_in_transaction(values, scope) if plan.transactional else plan.run(values, scope)
