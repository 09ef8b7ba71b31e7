"""Describes routes: their parameters as written and as JSON Schema, their middlewares and their rules."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from ..dispatch.compiler import CompiledProcedure, CompiledTopic
from ..dispatch.middleware import middleware_name, split_middlewares
from ..errors import one_line
from ..handlers.arguments import Arguments
from ..handlers.plan import Plan
from ..handlers.signatures import innermost

__all__ = ["RouteInfo", "describe_route", "middleware_names", "route_info"]


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """The description of a procedure or a topic in listings.

    Attributes:
        kind: "procedure" or "topic".
        declared: The URI as the user wrote it.
        uri: The full URI or URI pattern.
        publish: How clients publish: "handler", "relay" or "server only"; None for a procedure.
        signature: The handler's parameters and result, as the user wrote them; None without a handler.
        timeout: Seconds a call may take, or None.
        doc: The first line of the handler's docstring, possibly empty.
        middlewares: The names of its message middlewares, outermost first, the app's included.
        requires: The rules for each type of message, by "call", "subscribe" or "publish".
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


def route_info(compiled: CompiledProcedure | CompiledTopic, outer: list[str]) -> RouteInfo:
    """Describe a compiled route; `outer` are the names of the app's message middlewares."""
    declaration, plan = compiled.route, compiled.plan
    handler = declaration.handler
    publish = None
    if declaration.kind == "topic":
        publish = "handler" if handler is not None else "relay" if declaration.relay else "server only"
    return RouteInfo(
        kind=declaration.kind,
        declared=declaration.declared,
        uri=declaration.uri,
        publish=publish,
        signature=_signature(handler, plan) if handler is not None and plan is not None else None,
        timeout=declaration.timeout,
        doc=one_line(_docstring(handler).partition("\n")[0]),
        middlewares=outer + middleware_names(declaration.middlewares, gates=False)[1],
        requires={kind: [one_line(str(rule)) for rule in rules] for kind, rules in _rules(compiled).items() if rules},
    )


def describe_route(compiled: CompiledProcedure | CompiledTopic, outer: list[str]) -> dict[str, Any]:
    """Describe a compiled route as JSON, with what a page needs to make a form of it.

    Besides the attributes of `RouteInfo` it has `documentation`, the whole docstring; `variables`, the names in the
    URI pattern; `parameters`, each with `name`, `schema` (JSON Schema, 2020-12), `required`, `default` and
    `variadic`; and `definitions`, which the schemas refer to as `#/$defs/...`.
    """
    declaration, plan = compiled.route, compiled.plan
    pattern = declaration.pattern
    parameters, definitions = _parameters(plan.wire) if plan is not None else ([], {})
    return {
        **asdict(route_info(compiled, outer)),
        "documentation": _docstring(declaration.handler),
        "variables": list(pattern.names) if pattern is not None else [],
        "parameters": parameters,
        "definitions": definitions,
    }


def middleware_names(middlewares: Iterable[Any], *, gates: bool) -> tuple[list[str], list[str]]:
    """The names of the middlewares that act on handshakes, and of those that act on messages."""
    handshake: list[str] = []
    message: list[str] = []
    for middleware in middlewares:
        connects, messages = split_middlewares([middleware], "App", gates=gates)
        handshake += [middleware_name(middleware)] * len(connects)
        message += [middleware_name(middleware)] * len(messages)
    return handshake, message


def _docstring(handler: Callable[..., Any] | None) -> str:
    return inspect.getdoc(handler) or "" if handler is not None else ""


def _rules(compiled: CompiledProcedure | CompiledTopic) -> dict[str, tuple[Any, ...]]:
    if isinstance(compiled, CompiledProcedure):
        return {"call": compiled.rules}
    return {"subscribe": compiled.subscribe_rules, "publish": compiled.publish_rules}


# ---- parameters


def _parameters(wire: Arguments) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The parameters that a message fills, and the definitions that their schemas share."""
    names = [*wire.names, *([wire.variadic] if wire.variadic is not None else [])]
    annotations = [*wire.annotations, *([wire.variadic_type] if wire.variadic is not None else [])]
    schemas, definitions = _schemas(annotations)
    parameters = []
    for index, (name, schema) in enumerate(zip(names, schemas, strict=True)):
        entry = {"name": name, "schema": schema, "required": index < wire.required, "variadic": name == wire.variadic}
        if wire.required <= index < len(wire.names):
            entry["default"] = _default(wire.defaults[index])
        parameters.append(entry)
    return parameters, definitions


def _schemas(annotations: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A schema for each annotation, an empty one if msgspec has none, and the definitions that they share."""
    known = [each if _has_schema(each) else Any for each in annotations]
    schemas, definitions = msgspec.json.schema_components(known)
    return list(schemas), dict(definitions)


def _has_schema(annotation: Any) -> bool:
    try:
        msgspec.json.schema(annotation)
    except TypeError:
        return False
    return True


def _default(value: Any) -> Any:
    """A default as JSON values; None if JSON cannot carry it."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError):
        return None


# ---- signatures


def _signature(handler: Callable[..., Any], plan: Plan) -> str:
    """The parameters that a message fills, and the result."""
    sent = {*plan.wire.names, plan.wire.variadic}
    signature = inspect.signature(handler)
    node = _source(innermost(handler))
    written = _written(node.args) if node is not None else {}
    parts = [written.get(name, str(each)) for name, each in signature.parameters.items() if name in sent]
    returns = ""
    if node is not None and node.returns is not None:
        returns = f" -> {ast.unparse(node.returns)}"
    elif signature.return_annotation is not signature.empty:
        returns = f" -> {inspect.formatannotation(signature.return_annotation)}"
    return one_line(f"({', '.join(parts)}){returns}")


def _source(function: Any) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function's source, if available: annotations and defaults are shown as they were written."""
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
