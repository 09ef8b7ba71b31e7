"""Declarations of procedures and topics by URI, before the app starts."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from .errors import DeclarationError
from .handlers.signatures import called_from, explain_options, is_method, without_parentheses
from .limits import is_positive
from .protocol.extensions import RESERVED
from .protocol.uris import Pattern, expand, is_pattern, prefix_problem
from .telemetry.logs import logger_of

if TYPE_CHECKING:
    from .dispatch.middleware import Middleware
    from .dispatch.requirements import Rules

__all__ = [
    "Route",
    "Router",
    "TopicDeclaration",
    "TopicHandler",
    "as_middlewares",
    "as_rules",
    "close_router",
    "collect_routes",
    "is_handler",
    "warn_about_fragments",
]

logger: logging.Logger = logger_of(__name__)

P = ParamSpec("P")

R = TypeVar("R")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(eq=False, slots=True)
class Route:
    """A declared procedure or topic.

    Attributes:
        kind: "procedure" or "topic".
        declared: The URI as the user wrote it.
        uri: The full URI or URI pattern.
        handler: The function, or None for a topic without one.
        middlewares: The middlewares of the routers around it and its own, outermost first, without the app's.
        relay: Whether clients publish to each other without a handler.
        timeout: Seconds a call may take, or None.
        requires: The rules of the routers around it and its own.
        subscribe: Further rules for SUBSCRIBE.
        publish: Further rules for PUBLISH.
        on_subscribe: Its hooks for subscriptions that begin.
        on_unsubscribe: Its hooks for subscriptions that ended.
        pattern: The compiled URI pattern, or None for a plain URI.
        place: File and line of the declaration; empty for wampkit's own.
    """

    kind: str
    declared: str
    uri: str
    handler: Callable[..., Any] | None = None
    middlewares: tuple[Any, ...] = ()
    relay: bool = False
    timeout: float | None = None
    requires: tuple[Any, ...] = ()
    subscribe: tuple[Any, ...] = ()
    publish: tuple[Any, ...] = ()
    on_subscribe: list[Callable[..., Any]] = field(default_factory=list)
    on_unsubscribe: list[Callable[..., Any]] = field(default_factory=list)
    pattern: Pattern | None = None
    place: str = ""

    @property
    def label(self) -> str:
        """The route in error messages: kind, URI, function and place."""
        name = getattr(inspect.unwrap(self.handler), "__qualname__", None) if self.handler is not None else None
        about = ", ".join(filter(None, (name, self.place)))
        return f"{self.kind} {self.declared!r}" + (f" ({about})" if about else "")


class TopicDeclaration:
    """A declared topic: add hooks to it, or use it as a decorator to give it a handler."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def __call__(self, handler: Callable[P, R]) -> TopicHandler[P, R]:
        route = self._route
        if route.relay:
            raise DeclarationError(f"{route.label}: a relay has no handler; drop relay=True or the handler")
        if route.handler is not None:
            raise DeclarationError(f"{route.label} has its handler already")
        _check_handler(handler, f"app.topic({route.declared!r})")
        route.handler = handler
        return TopicHandler(route, handler)

    def require(self, rule: Any) -> None:
        """Add a rule for subscribing and publishing, as `@requires(...)` above the handler does."""
        self._route.requires += (rule,)

    @without_parentheses("topic.on_subscribe")
    def on_subscribe(self, hook: F) -> F:
        """Run `hook` for each SUBSCRIBE before it is accepted; an exception refuses the subscription.

        The hook takes injected parameters and variables of the URI. Events that are published while it runs
        reach the new subscriber once it has returned.
        """
        _check_handler(hook, "topic.on_subscribe")
        self._route.on_subscribe.append(hook)
        return hook

    @without_parentheses("topic.on_unsubscribe")
    def on_unsubscribe(self, hook: F) -> F:
        """Run `hook` after each subscription that ended, by UNSUBSCRIBE or with its connection."""
        _check_handler(hook, "topic.on_unsubscribe")
        self._route.on_unsubscribe.append(hook)
        return hook

    def __repr__(self) -> str:
        return f"<{self._route.label}>"


class TopicHandler(TopicDeclaration, Generic[P, R]):
    """A topic's handler, which is still called as the function, with the topic's hooks as methods."""

    def __init__(self, route: Route, handler: Callable[P, R]) -> None:
        super().__init__(route)
        self._handler = handler
        functools.update_wrapper(self, handler)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]  # what was a decorator is now the function
        return self._handler(*args, **kwargs)


class Router:
    """A group of procedures and topics, to be included in an app or in another router.

    Args:
        prefix: Prepended to each URI that is declared here: `http://example.com/admin#`, `admin/`, or `admin:` if the
            app declares that prefix.
        middlewares: Message middlewares for all of them, outermost first, inside those of the app.
        requires: A rule, or several, for all of them, besides their own: `requires("admin")`.
    """

    @explain_options("Router")
    def __init__(self, prefix: str = "", *, middlewares: Iterable[Middleware] = (), requires: Rules = ()) -> None:
        if not isinstance(prefix, str):
            raise DeclarationError(f"Router: the prefix is a text such as 'admin/', not {prefix!r}")
        label = f"the router with prefix {prefix!r}"
        self._prefix = prefix
        self._middlewares = as_middlewares(middlewares, label)
        self._requires = as_rules(requires, label)
        self._declared: list[Route] = []
        self._children: list[tuple[str, Router]] = []
        self._closed = False

    @explain_options("rpc")
    def rpc(
        self, uri: str, *, timeout: float | None = None, middlewares: Iterable[Middleware] = (), requires: Rules = ()
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Serve the decorated function as a procedure; it is returned unchanged.

        Args:
            uri: A URI or CURIE; `{name}` matches one segment and arrives as the argument of that name.
            timeout: Seconds after which a call is cancelled and answered with a timeout error.
            middlewares: Message middlewares for this procedure alone.
            requires: A rule, or several, about who may call it: `requires("admin")`; also a decorator of its own.
        """

        _check_name(uri, "rpc")

        def register(handler: Callable[P, R]) -> Callable[P, R]:
            self.add_rpc(uri, handler, timeout=timeout, middlewares=middlewares, requires=requires)
            return handler

        return register

    @explain_options("add_rpc")
    def add_rpc(
        self,
        uri: str,
        handler: Callable[..., Any],
        *,
        timeout: float | None = None,
        middlewares: Iterable[Middleware] = (),
        requires: Rules = (),
    ) -> None:
        """Serve `handler` as a procedure; the plain form of `rpc`."""
        _check_name(uri, "add_rpc")
        label = f"procedure {uri!r}"
        _check_handler(handler, f"app.rpc({uri!r})")
        if timeout is not None and not is_positive(timeout):
            raise DeclarationError(f"{label}: timeout is a number of seconds above 0, or None")
        rules = as_rules(requires, label)
        self._add(
            Route("procedure", uri, uri, handler, as_middlewares(middlewares, label), timeout=timeout, requires=rules)
        )

    @explain_options("topic")
    def topic(
        self,
        uri: str,
        *,
        relay: bool = False,
        middlewares: Iterable[Middleware] = (),
        requires: Rules = (),
        subscribe: Rules = (),
        publish: Rules = (),
    ) -> TopicDeclaration:
        """Declare a topic. Clients may subscribe; they may publish if it is a relay or has a handler.

        As a decorator it gives the topic a handler, which runs for each PUBLISH. Its result is the event that
        subscribers receive; None sends nothing.

        Args:
            uri: A URI or CURIE, variables as in `rpc`.
            relay: Whether clients publish to each other without a handler.
            middlewares: Message middlewares for this topic alone.
            requires: A rule, or several, about who may subscribe and publish; also a decorator of the handler.
            subscribe: The same for subscribing alone.
            publish: The same for publishing alone.
        """
        _check_name(uri, "topic")
        label = f"topic {uri!r}"
        route = Route(
            "topic",
            uri,
            uri,
            middlewares=as_middlewares(middlewares, label),
            relay=relay,
            requires=as_rules(requires, label),
            subscribe=as_rules(subscribe, label),
            publish=as_rules(publish, label),
        )
        self._add(route)
        return TopicDeclaration(route)

    def include(self, router: Router, *, prefix: str = "") -> None:
        """Serve what another router declares, its URIs behind `prefix`."""
        if not isinstance(router, Router):
            raise DeclarationError(
                f"include takes a Router, not {router!r}; declare what apps share on a Router, and include that"
            )
        if not isinstance(prefix, str):
            raise DeclarationError(f"include: the prefix is a text such as 'admin/', not {prefix!r}")
        self._check_open(f"a router with prefix {router._prefix!r}")
        if router is self or router._contains(self):
            raise DeclarationError(f"the router with prefix {router._prefix!r} cannot include itself")
        self._children.append((prefix, router))

    def _contains(self, other: Router) -> bool:
        return any(child is other or child._contains(other) for _, child in self._children)

    def _add(self, route: Route) -> None:
        self._check_open(route.label)
        route.place = called_from()
        if route.handler is not None:
            _mark_handler(route.handler)
        self._declared.append(route)

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise DeclarationError(f"{what} comes too late: the app is running; declare everything before the start")

    def _close(self, closed: bool) -> None:
        self._closed = closed
        for _, child in self._children:
            child._close(closed)

    def _collect(
        self, prefix: str = "", middlewares: tuple[Any, ...] = (), requires: tuple[Any, ...] = ()
    ) -> Iterator[Route]:
        """Copies of all routes here and below, with the prefixes, middlewares and rules of their routers.

        They share the hooks of the declared ones.
        """
        prefix += self._prefix
        middlewares += self._middlewares
        requires += self._requires
        for each in self._declared:
            yield replace(
                each,
                declared=prefix + each.declared,
                uri=prefix + each.declared,
                middlewares=middlewares + each.middlewares,
                requires=requires + each.requires,
            )
        for inner, child in self._children:
            yield from child._collect(prefix + inner, middlewares, requires)


_HANDLER = "__wampkit_handler__"


def is_handler(function: Any) -> bool:
    """Whether a function serves a procedure or a topic already."""
    return hasattr(function, _HANDLER)


def _mark_handler(function: Any) -> None:
    with contextlib.suppress(AttributeError, TypeError):  # a bound method takes no mark
        setattr(function, _HANDLER, True)


def _check_name(uri: Any, decorator: str) -> None:
    """Refuse what is no URI, such as the function below a decorator without parentheses."""
    if callable(uri):
        name = getattr(uri, "__name__", "the function")
        raise DeclarationError(f'write @app.{decorator}("{name}"), with a URI in parentheses, above {name}')
    if not isinstance(uri, str):
        raise DeclarationError(f"{decorator}: a URI is a text, not {uri!r}")


def _check_handler(handler: Any, decorated: str) -> None:
    """Refuse what cannot be a handler or hook: a rule, an unbound method, no function.

    `decorated` is the call that registers it, as it would be written for a bound method.
    """
    if hasattr(handler, "check") and not inspect.isroutine(handler):
        raise DeclarationError(f"{decorated}: {handler!r} is a rule, not a handler; write @requires() with parentheses")
    if not callable(handler) or (isinstance(handler, TopicDeclaration) and not isinstance(handler, TopicHandler)):
        raise DeclarationError(f"{decorated}: {handler!r} is no function")
    if is_method(handler):
        owner, _, name = handler.__qualname__.rpartition(".")
        raise DeclarationError(
            f"{decorated}: {owner}.{name} is a method without its object, so that clients would have to send "
            f"{next(iter(inspect.signature(handler).parameters))!r}; register it bound, once there is an object: "
            f"{decorated}(service.{name})"
        )


def as_middlewares(middlewares: Any, owner: str) -> tuple[Any, ...]:
    """A list of middlewares as a tuple. Raises DeclarationError if it is no list."""
    single = callable(middlewares) or isinstance(middlewares, str)
    if single or hasattr(middlewares, "message") or hasattr(middlewares, "connect"):
        shown = getattr(middlewares, "__qualname__", repr(middlewares))
        raise DeclarationError(f"{owner}: middlewares is a list; write middlewares=[...] around {shown}")
    if not isinstance(middlewares, Iterable):
        raise DeclarationError(f"{owner}: middlewares is a list, not {middlewares!r}")
    return tuple(middlewares)


def as_rules(value: Any, label: str) -> tuple[Any, ...]:
    """One rule or several as a tuple. Raises DeclarationError if one is no rule."""
    rules = (value,) if hasattr(value, "check") or isinstance(value, str) else value
    try:
        rules = tuple(rules)
    except TypeError:
        rules = (value,)
    for rule in rules:
        if not hasattr(rule, "check") or inspect.isclass(rule):
            shown = repr(rule) if isinstance(rule, str) else getattr(rule, "__name__", "...")
            call = "requires()" if shown == "requires" else f"requires({shown})"
            raise DeclarationError(f"{label}: {rule!r} is no rule; write {call} or anyone")
    return rules


def close_router(router: Router, closed: bool = True) -> None:
    """Refuse further declarations on a router and those that it includes, or accept them again."""
    router._close(closed)


def collect_routes(router: Router, prefixes: Mapping[str, str]) -> list[Route]:
    """All routes of a router, with full URIs and compiled patterns.

    Raises:
        DeclarationError: A URI is declared twice, a pattern is bad, or a name is wampkit's own.
    """
    routes = list(router._collect())
    taken: dict[tuple[str, str], Route] = {}
    for each in routes:
        each.uri = expand(each.declared, prefixes)
        if not each.declared:
            raise DeclarationError(f"{each.label}: a URI cannot be empty")
        if each.declared.startswith(RESERVED):
            raise DeclarationError(f"{each.label}: names that begin with {RESERVED!r} are wampkit's own")
        problem = prefix_problem(each.declared, prefixes)
        if problem is not None:
            raise DeclarationError(f"{each.label}: {problem}")
        if is_pattern(each.uri):
            each.pattern = _pattern(each)
        shape = each.uri if each.pattern is None else each.pattern.shape
        first = taken.setdefault((each.kind, shape), each)
        if first is not each:
            raise DeclarationError(
                f"{each.label} is declared twice, first as {first.label}; both mean {each.uri!r}: remove or rename one"
            )
    return routes


def warn_about_fragments(routes: Iterable[Route]) -> None:
    """Warn about names with two `#`, which are no valid URIs; they work, and old clients may need them."""
    for each in routes:
        if each.uri.count("#") > 1:
            logger.warning("%s: %r has two '#', and a URI has one at most; is one of them meant?", each.label, each.uri)


def _pattern(route: Route) -> Pattern:
    try:
        return Pattern(route.uri)
    except DeclarationError as error:
        raise DeclarationError(f"{route.label}: {error}") from None
