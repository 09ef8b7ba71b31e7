"""Compiles routes at start: each handler's plan, the rules, and the chain of middlewares around the handler.

A route pays only for what it uses: one without middlewares, rules, timeout, variables and injected parameters is
called directly, see `is_plain`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..concurrency.threads import Threads
from ..connection.connection import Connection
from ..connection.server_connection import ServerConnection
from ..errors import DeclarationError, NotFound, WampError, quote
from ..handlers.binding import Injectables, compile_handler, variables_check
from ..handlers.depends import Scope
from ..handlers.plan import Plan
from ..protocol import messages
from ..protocol.cra import AUTH, AUTHREQ
from ..protocol.uris import expand
from ..pubsub.registry import TopicRegistry
from ..pubsub.topics import Topic
from ..router import Route
from ..telemetry.counters import Counters
from .middleware import Call, CallNext, Incoming, Publish, Subscribe, Unsubscribe, fold, split_middlewares
from .requirements import Rule, combine_rules, requirements_of, with_rules
from .route_table import RouteTable

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


@dataclass(frozen=True, slots=True, eq=False)
class CompiledProcedure:
    """A procedure ready to run.

    Attributes:
        route: As declared.
        plan: How to call its handler.
        middlewares: Its message middlewares, outermost first, without the app's.
        rules: What must hold for a CALL.
        builtin: Whether it is wampkit's own; its calls pass no middleware.
    """

    route: Route
    plan: Plan
    middlewares: tuple[Any, ...]
    rules: tuple[Rule, ...]
    builtin: bool


@dataclass(frozen=True, slots=True, eq=False)
class CompiledTopic:
    """A topic ready for messages.

    Attributes:
        route: As declared.
        plan: How to call its handler, or None if it has none.
        on_subscribe: How to call the hooks.
        on_unsubscribe: How to call the hooks.
        middlewares: Its message middlewares, outermost first, without the app's.
        subscribe_rules: What must hold for a SUBSCRIBE.
        publish_rules: What must hold for a PUBLISH.
        builtin: Whether it is wampkit's own; its messages pass no middleware.
    """

    route: Route
    plan: Plan | None
    on_subscribe: tuple[Plan, ...]
    on_unsubscribe: tuple[Plan, ...]
    middlewares: tuple[Any, ...]
    subscribe_rules: tuple[Rule, ...]
    publish_rules: tuple[Rule, ...]
    builtin: bool


# ---- compiling

RulesOf = Callable[[Iterable[Rule]], tuple[Rule, ...]]
"""The rules to check, of those that were declared."""


def compile_routes(
    routes: Iterable[Route],
    *builtins: Route,
    longest: int,
    counters: Counters,
    default: tuple[Rule, ...] = (),
    cra: bool = False,
    given: Injectables | None = None,
) -> tuple[RouteTable[CompiledProcedure], RouteTable[CompiledTopic]]:
    """Compile every route, so that a mistake shows before the first client.

    Args:
        routes: The app's own.
        builtins: Those that wampkit serves besides.
        longest: Bytes of the longest URI that is looked up.
        counters: Counts the longer ones.
        default: The rules of the app's routes that have none.
        cra: Whether WAMP-CRA grants what may be done.
        given: What handlers and hooks may ask for, by type, besides the connection, the message and the topic.

    Raises:
        DeclarationError: A route cannot work.
    """
    procedures: RouteTable[CompiledProcedure] = RouteTable(longest, counters)
    topics: RouteTable[CompiledTopic] = RouteTable(longest, counters)

    def add(route: Route, rules_of: RulesOf, *, builtin: bool) -> None:
        if route.kind == "procedure":
            procedure = _compile_procedure(route, rules_of, given or {}, builtin=builtin)
            procedures.add(route, procedure, variables_check([procedure.plan]))
        else:
            topic = _compile_topic(route, rules_of, given or {}, builtin=builtin)
            handler = () if topic.plan is None else (topic.plan,)
            topics.add(route, topic, variables_check([*handler, *topic.on_subscribe, *topic.on_unsubscribe]))

    reserved = {*(each.uri for each in builtins), *((AUTHREQ, AUTH) if cra else ())}
    for route in routes:
        if route.kind == "procedure" and route.uri in reserved:
            raise DeclarationError(f"procedure {route.uri!r} is wampkit's own in this app; remove or rename yours")
        add(route, lambda declared: combine_rules(declared, default, cra=cra), builtin=False)
    for route in builtins:
        add(route, lambda declared: combine_rules(declared, (), cra=False), builtin=True)
    procedures.sort()
    topics.sort()
    return procedures, topics


def known_names(
    procedures: Iterable[CompiledProcedure], topics: Iterable[CompiledTopic], prefixes: Mapping[str, str]
) -> dict[str, str]:
    """The names that clients usually send, URIs and CURIEs of the routes, and the URI that each stands for."""
    routes = [each.route for table in (procedures, topics) for each in table if each.route.pattern is None]
    curies = [
        (f"{prefix}:{route.uri.removeprefix(uri)}", route.uri)
        for route in routes
        for prefix, uri in prefixes.items()
        if route.uri.startswith(uri)
    ]
    names = curies + [(route.uri, route.uri) for route in routes]
    return {name: uri for name, uri in names if expand(name, prefixes) == uri}


def _injectables(message: type[Incoming], owner: str, further: Injectables) -> Injectables:
    """The resolvers for a function that handles a type of message; `owner` names it in errors."""
    others: Injectables = dict.fromkeys(
        {Call, Publish, Subscribe, Unsubscribe}, f"{owner} receives a {message.__name__}"
    )
    no_topic = "a procedure has no topic; publish with app.publish(topic, event)"
    return {
        **others,
        Connection: lambda scope: scope.connection,
        ServerConnection: lambda scope: scope.connection,  # for built-in procedures
        Topic: no_topic if message is Call else lambda scope: scope.topic,
        message: lambda scope: scope.message,
        **further,
    }


def _compile_procedure(route: Route, rules_of: RulesOf, further: Injectables, *, builtin: bool) -> CompiledProcedure:
    assert route.handler is not None
    given = _injectables(Call, "a procedure", further)
    plan = compile_handler(route.declared, route.handler, given, variables=_variables(route), all_variables=True)
    _refuse_generator(route, route.handler)
    return CompiledProcedure(route, plan, _middlewares(route), rules_of(_declared_rules(route)), builtin)


def _compile_topic(route: Route, rules_of: RulesOf, further: Injectables, *, builtin: bool) -> CompiledTopic:
    variables, plan = _variables(route), None
    if route.handler is not None:
        _refuse_generator(route, route.handler)
        given = _injectables(Publish, "a topic's handler", further)
        plan = compile_handler(route.declared, route.handler, given, variables=variables, all_variables=True, most=1)

    def hooks(kind: str, functions: list[Callable[..., Any]], message: type[Incoming]) -> tuple[Plan, ...]:
        given = _injectables(message, "this hook", further)
        label = f"{kind} of {route.declared}"
        return tuple(compile_handler(label, function, given, variables=variables, most=0) for function in functions)

    declared = _declared_rules(route)
    return CompiledTopic(
        route,
        plan,
        hooks("on_subscribe", route.on_subscribe, Subscribe),
        hooks("on_unsubscribe", route.on_unsubscribe, Unsubscribe),
        _middlewares(route),
        rules_of((*declared, *route.subscribe)),
        rules_of((*declared, *route.publish)),
        builtin,
    )


def _middlewares(route: Route) -> tuple[Any, ...]:
    return tuple(split_middlewares(route.middlewares, route.label, gates=False)[1])


def _declared_rules(route: Route) -> tuple[Rule, ...]:
    """The rules for every type of message: those of the routers and the route, and those of the handler."""
    return (*route.requires, *requirements_of(route.handler))


def _variables(route: Route) -> Sequence[str]:
    return route.pattern.names if route.pattern is not None else ()


def _refuse_generator(route: Route, handler: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise DeclarationError(
            f"{route.label}: a handler returns its result, it does not yield; publish events instead"
        )


# ---- chains

CallChain = Callable[[ServerConnection, messages.Call, Mapping[str, str]], Awaitable[Any]]
"""Runs a call with the variables of its URI; the result is what the handler or a middleware returns."""


def call_chain(
    procedure: CompiledProcedure | None,
    outer: tuple[Any, ...],
    threads: Threads,
    registry: TopicRegistry,
    timeout_uri: str,
) -> CallChain:
    """Fold the middlewares, rules and timeout of a procedure around its handler.

    Args:
        procedure: The procedure, or None for calls to unknown URIs.
        outer: The app's middlewares, outermost first.
        threads: Runs a blocking handler.
        registry: The subscribers, for a handler that takes a `Topic`.
        timeout_uri: The error URI of a call that takes too long.
    """
    if procedure is None:
        return _with_message(None, fold(outer, _refuse_unknown))
    plan = procedure.plan
    layers = () if procedure.builtin else (*outer, *procedure.middlewares)
    timeout = procedure.route.timeout

    def handler(message: Incoming) -> Awaitable[Any]:
        return run_plan(plan, plan.wire.bind(message.args), message, threads, registry)  # type: ignore[attr-defined]  # it is a Call

    innermost: CallNext = handler
    if plan.plain:
        function, bind = plan.function, plan.wire.bind
        innermost = lambda message: function(*bind(message.args))  # type: ignore[attr-defined]  # noqa: E731
    run = _with_message(procedure.route, fold(layers, with_rules(procedure.rules, innermost)))
    return run if timeout is None else _with_timeout(run, procedure.route, timeout, timeout_uri)


def is_plain(procedure: CompiledProcedure, outer: tuple[Any, ...]) -> bool:
    """Whether a procedure has no chain: its handler is called with the bound arguments and nothing else."""
    exact = procedure.route.pattern is None and procedure.route.timeout is None
    return exact and procedure.plan.plain and not (outer or procedure.middlewares or procedure.rules)


def _refuse_unknown(message: Incoming) -> Awaitable[Any]:
    raise NotFound(f"no such procedure: {quote(message.uri)}")


def _with_message(route: Route | None, chain: CallNext) -> CallChain:
    def run(connection: ServerConnection, message: messages.Call, variables: Mapping[str, str]) -> Awaitable[Any]:
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


def _with_timeout(run: CallChain, route: Route, seconds: float, uri: str) -> CallChain:
    async def limited(connection: ServerConnection, message: messages.Call, variables: Mapping[str, str]) -> Any:
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
    rules: tuple[Rule, ...],
    handler: Callable[[CompiledTopic | None, Incoming], Awaitable[Any]],
) -> CallNext:
    """Fold the middlewares and rules of a topic around `handler(topic, message)`, for one type of message.

    Args:
        topic: The topic, or None for messages to unknown URIs.
        outer: The app's middlewares, outermost first.
        rules: What must hold for the message.
        handler: Runs the message.
    """
    layers = outer if topic is None else () if topic.builtin else (*outer, *topic.middlewares)
    return fold(layers, with_rules(rules, functools.partial(handler, topic)))


_NO_KEYWORDS: dict[str, Any] = {}


def run_plan(
    plan: Plan, values: Sequence[Any], message: Incoming, threads: Threads, registry: TopicRegistry
) -> Awaitable[Any]:
    """Call a handler or hook with the values of a message and the parameters that are injected."""
    if not plan.injected:
        return plan.call(threads, message.connection, values, _NO_KEYWORDS)
    topic = Topic(message.uri, registry)
    scope = Scope(message.connection, message, topic, message.variables, threads)
    return plan.run_in_transaction(values, scope) if plan.transactional else plan.run(values, scope)
