"""What an app serves, for people and for scripts: `wampkit routes`."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .app import App
from .binding import Plan
from .chains import Procedure, ServedTopic
from .gates import arranged
from .loading import one_line
from .middleware import middleware_name, split

__all__ = ["Listing", "Route", "as_text", "listing_of"]


@dataclass(frozen=True, slots=True)
class Route:
    """A procedure or a topic, as it is listed.

    Attributes:
        kind: "procedure" or "topic".
        declared: The URI as the user wrote it.
        uri: The full URI or URI pattern.
        publish: Who may publish, and how: "handler", "relay" or "server only"; None for a procedure.
        signature: What a client sends and receives, as the user wrote it; None where there is no handler.
        timeout: Seconds a call may take, or None.
        doc: The first line of the handler's docstring, possibly empty.
        middlewares: What each of its messages passes, outermost first, the app's own included.
        requires: The rules for each type of message that can be sent to it, by "call", "subscribe" or "publish".
    """

    kind: str
    declared: str
    uri: str
    publish: str | None
    signature: str | None
    timeout: float | None
    doc: str
    middlewares: list[str]
    requires: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Listing:
    """What an app serves.

    Attributes:
        prefixes: The app's prefixes.
        handshake: The middlewares that each handshake passes, outermost first, with those that stand there by default.
        routes: The procedures in the order in which they were declared, then the topics.
    """

    prefixes: dict[str, str]
    handshake: list[str]
    routes: list[Route]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON can carry it."""
        return asdict(self)


def listing_of(app: App) -> Listing:
    """What an app serves. Raises DeclarationError if a declaration cannot work."""
    declarations = app.declarations()
    procedures, topics = app.compile(declarations)
    compiled: dict[int, Procedure | ServedTopic] = {id(each.route): each for each in (*procedures, *topics)}
    handshake, message = _names(arranged(app.middlewares), gates=True)
    routes = [_route(compiled[id(each)], message) for each in declarations]
    return Listing(dict(app.prefixes), handshake, sorted(routes, key=lambda route: route.kind))


def _route(compiled: Procedure | ServedTopic, outer: list[str]) -> Route:
    declaration, plan = compiled.route, compiled.plan
    handler = declaration.handler
    publish = None
    if declaration.kind == "topic":
        publish = "handler" if handler is not None else "relay" if declaration.relay else "server only"
    return Route(
        kind=declaration.kind,
        declared=declaration.declared,
        uri=declaration.uri,
        publish=publish,
        signature=_signature(handler, plan) if handler is not None and plan is not None else None,
        timeout=declaration.timeout,
        doc=one_line((inspect.getdoc(handler) or "").partition("\n")[0]) if handler is not None else "",
        middlewares=outer + _names(declaration.middlewares, gates=False)[1],
        requires={kind: [one_line(str(rule)) for rule in rules] for kind, rules in _rules(compiled).items() if rules},
    )


def _rules(compiled: Procedure | ServedTopic) -> dict[str, tuple[Any, ...]]:
    if isinstance(compiled, Procedure):
        return {"call": compiled.rules}
    return {"subscribe": compiled.may_subscribe, "publish": compiled.may_publish}


def _names(middlewares: Iterable[Any], *, gates: bool) -> tuple[list[str], list[str]]:
    """The names of those that act on handshakes, and of those that act on messages."""
    handshake: list[str] = []
    message: list[str] = []
    for middleware in middlewares:
        connects, messages = split([middleware], "App", gates=gates)
        handshake += [middleware_name(middleware)] * len(connects)
        message += [middleware_name(middleware)] * len(messages)
    return handshake, message


# ---- signatures


def _signature(handler: Callable[..., Any], plan: Plan) -> str:
    """The parameters that a message fills, and the result."""
    function = inspect.unwrap(handler)
    while isinstance(function, functools.partial):
        function = function.func
    sent = {*plan.wire.names, plan.wire.variadic}
    signature = inspect.signature(handler)
    node = _source(function)
    written = _written(node.args) if node is not None else {}
    parts = [written.get(name, str(each)) for name, each in signature.parameters.items() if name in sent]
    returns = ""
    if node is not None and node.returns is not None:
        returns = f" -> {ast.unparse(node.returns)}"
    elif signature.return_annotation is not signature.empty:
        returns = f" -> {inspect.formatannotation(signature.return_annotation)}"
    return one_line(f"({', '.join(parts)}){returns}")


def _source(function: Any) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function as it was written, where that can be had: annotations and defaults read best so."""
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None


def _written(args: ast.arguments) -> dict[str, str]:
    positional = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    written = {each.arg: _parameter(each, default) for each, default in zip(positional, defaults, strict=True)}
    if args.vararg is not None:
        written[args.vararg.arg] = "*" + _parameter(args.vararg, None)
    return written


def _parameter(arg: ast.arg, default: ast.expr | None) -> str:
    text = arg.arg
    if arg.annotation is not None:
        text += f": {ast.unparse(arg.annotation)}"
    if default is not None:
        text += f" = {ast.unparse(default)}" if arg.annotation is not None else f"={ast.unparse(default)}"
    return text


# ---- text


def as_text(listing: Listing, *, middlewares: bool = False) -> list[str]:
    """The lines of a listing.

    Args:
        listing: What to print.
        middlewares: Whether to show what handshakes and messages pass, outermost first.
    """
    rows = [("prefix", prefix, uri, "") for prefix, uri in listing.prefixes.items()]
    rows += [(route.kind, route.declared, _what(route), route.doc) for route in listing.routes]
    rows = [(kind, one_line(uri), one_line(what), doc) for kind, uri, what, doc in rows]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [_columns(row, widths) for row in rows]
    if middlewares:
        passes = [None] * len(listing.prefixes) + list(listing.routes)
        lines = [line for each in zip(lines, passes, strict=True) for line in _with_middlewares(*each)]
        lines.insert(0, f"handshake  {_chain(listing.handshake)}")
    return lines


def _what(route: Route) -> str:
    if route.kind == "procedure":
        return f"{route.signature}" + (f" within {route.timeout:g} s" if route.timeout is not None else "")
    return f"{route.publish} {route.signature}" if route.signature is not None else f"{route.publish}"


def _columns(row: tuple[str, ...], widths: list[int]) -> str:
    padded = [text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)]
    return "  ".join(padded).rstrip()


def _with_middlewares(line: str, route: Route | None) -> list[str]:
    if route is None:
        return [line]
    rules = [f"           {kind} requires {' and '.join(rules)}" for kind, rules in route.requires.items()]
    return [line, f"           through {_chain(route.middlewares)}", *rules]


def _chain(names: list[str]) -> str:
    return " > ".join(names) if names else "no middleware"
