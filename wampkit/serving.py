"""Declarations made ready to run: each handler and hook compiled, and what each of them can be given."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .binding import Injectables, Plan, compile_handler, fits
from .chains import Procedure, ServedTopic
from .connection import Connection
from .errors import DeclarationError
from .incoming import Call, Publish, Subscribe, Unsubscribe
from .middleware import split
from .requirements import Rule, effective, requirements_of
from .router import Declaration, Table
from .topics import Topic
from .uris import expand

__all__ = ["compile_routes", "known_names"]


def compile_routes(
    routes: Iterable[Declaration],
    *own: Declaration,
    default: tuple[Rule, ...] = (),
    cra: bool = False,
    given: Injectables | None = None,
) -> tuple[Table[Procedure], Table[ServedTopic]]:
    """Every declaration made ready to run, so that a mistake shows before the first client.

    Args:
        routes: What the app declares.
        own: What wampkit itself serves.
        default: The rules for routes that have none.
        cra: Whether WAMP-CRA grants what may be done.
        given: What handlers and hooks may ask for besides, by its type.

    Raises:
        DeclarationError: A declaration cannot work.
    """
    further: Injectables = given or {}
    procedures: Table[Procedure] = Table()
    topics: Table[ServedTopic] = Table()
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
    for route in own:
        rules = _rules(route, (), False)
        if route.kind == "topic":
            topics.add(route.uri, None, _topic(route, (), rules, further, own=True))
            continue
        if procedures.exact(route.uri) is not None:
            raise DeclarationError(f"procedure {route.uri!r} is wampkit's own in this app; remove or rename yours")
        procedures.add(route.uri, None, _procedure(route, (), rules(), further, own=True))
    procedures.sort()
    topics.sort()
    return procedures, topics


def known_names(
    procedures: Iterable[Procedure], topics: Iterable[ServedTopic], prefixes: Mapping[str, str]
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
    return lambda further=(): effective((*own, *further), default, cra=cra)


def _procedure(
    route: Declaration,
    middlewares: tuple[Any, ...],
    rules: tuple[Any, ...],
    further: Injectables,
    *,
    own: bool = False,
) -> Procedure:
    assert route.handler is not None
    names = route.pattern.names if route.pattern is not None else ()
    plan = compile_handler(route.declared, route.handler, {**_CALL, **further}, variables=names, all_variables=True)
    _refuse_generators(route, route.handler)
    return Procedure(route, plan, middlewares, rules, own)


def _topic(
    route: Declaration,
    middlewares: tuple[Any, ...],
    rules: Callable[..., tuple[Any, ...]],
    further: Injectables,
    *,
    own: bool = False,
) -> ServedTopic:
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

    return ServedTopic(
        route,
        plan,
        hooks("on_subscribe", route.on_subscribe, Subscribe),
        hooks("on_unsubscribe", route.on_unsubscribe, Unsubscribe),
        middlewares,
        rules(route.subscribe),
        rules(route.publish),
        own,
    )


def _refuse_generators(route: Declaration, handler: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise DeclarationError(
            f"{route.label}: a handler returns its result, it does not yield; publish events instead"
        )
