"""Routes made ready at start: the handler's plan, its rules, and the middlewares folded around it.

How a message reaches its handler, folded together once at start.

A route without middlewares, timeout, variables and injected parameters pays for none of them: see `is_plain`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..concurrency.threads import Threads
from ..connection.connection import Connection
from ..errors import DeclarationError, NotFound, WampError, quote
from ..handlers.binding import Injectables, Plan, compile_handler, fits
from ..handlers.depends import Scope
from ..protocol import messages
from ..protocol.uris import expand
from ..pubsub.topics import Topic, Topics
from ..router import Declaration
from .middleware import Call, CallNext, Incoming, Publish, Subscribe, Unsubscribe, fold, split
from .requirements import Rule, combine_rules, requirements_of, with_rules
from .route_table import Table

__all__ = [
    "CompiledProcedure",
    "CompiledTopic",
    "call_chain",
    "compile_routes",
    "is_plain",
    "known_names",
    "run_plan",
    "topic_chain",
]

CallChain = Callable[[Connection, messages.Call, Mapping[str, str]], Awaitable[Any]]
"""Runs a call; the result is what the handler or a middleware returns."""

Way = CallNext

_NO_KEYWORDS: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class CompiledProcedure:
    """A procedure ready to run; one of wampkit's own passes no middleware."""

    route: Declaration
    plan: Plan
    middlewares: tuple[Any, ...]
    rules: tuple[Any, ...] = ()
    builtin: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CompiledTopic:
    """A topic ready to be used; messages to one of wampkit's own pass no middleware."""

    route: Declaration
    plan: Plan | None
    on_subscribe: tuple[Plan, ...]
    on_unsubscribe: tuple[Plan, ...]
    middlewares: tuple[Any, ...]
    may_subscribe: tuple[Any, ...] = ()
    may_publish: tuple[Any, ...] = ()
    builtin: bool = False


def call_chain(
    procedure: CompiledProcedure | None, outer: tuple[Any, ...], threads: Threads, register: Topics, timeout_uri: str
) -> CallChain:
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
    layers = () if procedure.builtin else (*outer, *procedure.middlewares)
    timeout = procedure.route.timeout

    def handler(message: Incoming) -> Awaitable[Any]:
        return run_plan(plan, plan.wire.bind(message.args), message, threads, register)  # type: ignore[attr-defined]  # it is a Call

    innermost: CallNext = handler
    if plan.plain:
        function, bind = plan.function, plan.wire.bind
        innermost = lambda message: function(*bind(message.args))  # type: ignore[attr-defined]  # noqa: E731
    run = _with_message(procedure.route, fold(layers, with_rules(procedure.rules, innermost)))
    return run if timeout is None else _limited(run, procedure.route, timeout, timeout_uri)


def is_plain(procedure: CompiledProcedure, outer: tuple[Any, ...]) -> bool:
    """Whether nothing stands between a call and the handler, so that it may be called without going this way."""
    exact = procedure.route.pattern is None and procedure.route.timeout is None
    return exact and procedure.plan.plain and not (outer or procedure.middlewares or procedure.rules)


def _refuse(message: Incoming) -> Awaitable[Any]:
    raise NotFound(f"no such procedure: {quote(message.uri)}")


def _with_message(route: Declaration | None, chain: CallNext) -> CallChain:
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


def _limited(run: CallChain, route: Declaration, seconds: float, uri: str) -> CallChain:
    async def limited(connection: Connection, message: messages.Call, variables: Mapping[str, str]) -> Any:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await run(connection, message, variables)
        except TimeoutError:
            if not limit.expired():
                raise
            raise WampError(uri, f"{route.declared}: no result within {seconds:g} s") from None

    return limited


def topic_chain(
    topic: CompiledTopic | None,
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
    layers = outer if topic is None else () if topic.builtin else (*outer, *topic.middlewares)
    return fold(layers, with_rules(rules, lambda message: innermost(topic, message)))


def run_plan(
    plan: Plan, values: Sequence[Any], message: Incoming, threads: Threads, register: Topics
) -> Awaitable[Any]:
    """Call a handler with the wire's values and what it wants to be given."""
    if not plan.injected:
        return plan.call(threads, message.connection, values, _NO_KEYWORDS)
    topic = Topic(message.uri, register)
    scope = Scope(message.connection, message, topic, message.variables, threads)
    return plan.run_in_transaction(values, scope) if plan.transactional else plan.run(values, scope)


def compile_routes(
    routes: Iterable[Declaration],
    *builtins: Declaration,
    default: tuple[Rule, ...] = (),
    cra: bool = False,
    given: Injectables | None = None,
) -> tuple[Table[CompiledProcedure], Table[CompiledTopic]]:
    """Every declaration made ready to run, so that a mistake shows before the first client.

    Args:
        routes: What the app declares.
        builtins: What wampkit itself serves.
        default: The rules for routes that have none.
        cra: Whether WAMP-CRA grants what may be done.
        given: What handlers and hooks may ask for besides, by its type.

    Raises:
        DeclarationError: A declaration cannot work.
    """
    further: Injectables = given or {}
    procedures: Table[CompiledProcedure] = Table()
    topics: Table[CompiledTopic] = Table()
    for route in routes:
        _, middlewares = split(route.middlewares, route.label, gates=False)
        rules = _rules(route, default, cra)
        if route.kind == "procedure":
            procedure = _procedure(route, tuple(middlewares), rules(), further)
            procedures.add(route.uri, route.pattern, procedure, fits([procedure.plan]))
        else:
            topic = _topic(route, tuple(middlewares), rules, further)
            plans = [*([topic.plan] if topic.plan is not None else []), *topic.on_subscribe, *topic.on_unsubscribe]
            topics.add(route.uri, route.pattern, topic, fits(plans))
    for route in builtins:
        rules = _rules(route, (), False)
        if route.kind == "topic":
            topics.add(route.uri, None, _topic(route, (), rules, further, builtin=True))
            continue
        if procedures.exact(route.uri) is not None:
            raise DeclarationError(f"procedure {route.uri!r} is wampkit's own in this app; remove or rename yours")
        procedures.add(route.uri, None, _procedure(route, (), rules(), further, builtin=True))
    procedures.sort()
    topics.sort()
    return procedures, topics


def known_names(
    procedures: Iterable[CompiledProcedure], topics: Iterable[CompiledTopic], prefixes: Mapping[str, str]
) -> dict[str, str]:
    """The names under which clients know what is declared, URI or CURIE, and the URI that each means."""
    declared = [each.route for each in procedures] + [each.route for each in topics]
    routes = [route for route in declared if route.pattern is None]
    curies = {
        f"{prefix}:{route.uri.removeprefix(uri)}": route.uri
        for route in routes
        for prefix, uri in prefixes.items()
        if route.uri.startswith(uri)
    }
    names = {name: uri for name, uri in curies.items() if expand(name, prefixes) == uri}
    return names | {route.uri: route.uri for route in routes if expand(route.uri, prefixes) == route.uri}


_CALL: Injectables = {
    Connection: lambda scope: scope.connection,
    Call: lambda scope: scope.message,
    Topic: "a procedure has no topic; publish with app.publish(topic, event)",
    Publish: "a procedure receives a Call",
    Subscribe: "a procedure receives a Call",
    Unsubscribe: "a procedure receives a Call",
}

_TOPIC: Injectables = {
    Connection: lambda scope: scope.connection,
    Topic: lambda scope: scope.topic,
    Publish: lambda scope: scope.message,
    Call: "a topic's handler receives a Publish",
    Subscribe: "a topic's handler receives a Publish",
    Unsubscribe: "a topic's handler receives a Publish",
}


def _hook_injectables(message: type) -> Injectables:
    others = {Call, Publish, Subscribe, Unsubscribe} - {message}
    reasons: dict[Any, Any] = dict.fromkeys(others, f"this hook receives {message.__name__}")
    return {
        **reasons,
        Connection: lambda scope: scope.connection,
        Topic: lambda scope: scope.topic,
        message: lambda scope: scope.message,
    }


def _rules(route: Declaration, default: tuple[Rule, ...], cra: bool) -> Callable[..., tuple[Any, ...]]:
    """Gives the rules of a route, with further ones for a type of message."""
    own = (*route.requires, *requirements_of(route.handler))
    return lambda further=(): combine_rules((*own, *further), default, cra=cra)


def _procedure(
    route: Declaration,
    middlewares: tuple[Any, ...],
    rules: tuple[Any, ...],
    further: Injectables,
    *,
    builtin: bool = False,
) -> CompiledProcedure:
    assert route.handler is not None
    names = route.pattern.names if route.pattern is not None else ()
    plan = compile_handler(route.declared, route.handler, {**_CALL, **further}, variables=names, all_variables=True)
    _refuse_generators(route, route.handler)
    return CompiledProcedure(route, plan, middlewares, rules, builtin)


def _topic(
    route: Declaration,
    middlewares: tuple[Any, ...],
    rules: Callable[..., tuple[Any, ...]],
    further: Injectables,
    *,
    builtin: bool = False,
) -> CompiledTopic:
    names = route.pattern.names if route.pattern is not None else ()
    given = {**_TOPIC, **further}
    plan = None
    if route.handler is not None:
        _refuse_generators(route, route.handler)
        plan = compile_handler(route.declared, route.handler, given, variables=names, all_variables=True, most=1)

    def hooks(kind: str, functions: list[Callable[..., Any]], message: type) -> tuple[Plan, ...]:
        injectables = {**_hook_injectables(message), **further}
        label = f"{kind} of {route.declared}"
        return tuple(compile_handler(label, function, injectables, variables=names, most=0) for function in functions)

    return CompiledTopic(
        route,
        plan,
        hooks("on_subscribe", route.on_subscribe, Subscribe),
        hooks("on_unsubscribe", route.on_unsubscribe, Unsubscribe),
        middlewares,
        rules(route.subscribe),
        rules(route.publish),
        builtin,
    )


def _refuse_generators(route: Declaration, handler: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise DeclarationError(
            f"{route.label}: a handler returns its result, it does not yield; publish events instead"
        )
