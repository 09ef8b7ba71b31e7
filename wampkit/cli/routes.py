"""What an app serves, for people and for scripts: `wampkit routes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..app import App
from ..dispatch.compiler import CompiledProcedure, CompiledTopic
from ..errors import one_line
from ..schema.routes import RouteInfo, describe_route, middleware_names, route_info
from ..server.settings import arranged

__all__ = ["Listing", "as_text", "listing_of"]


@dataclass(frozen=True, slots=True)
class Listing:
    """What an app serves.

    Attributes:
        prefixes: The app's prefixes.
        handshake: The middlewares that each handshake passes, outermost first, with those that stand there by default.
        routes: The procedures in the order in which they were declared, then the topics.
        described: The same routes with all that JSON tells of them besides: documentation, and schemas.
    """

    prefixes: dict[str, str]
    handshake: list[str]
    routes: list[RouteInfo]
    described: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON can carry it."""
        return {"prefixes": self.prefixes, "handshake": self.handshake, "routes": self.described}


def listing_of(app: App) -> Listing:
    """What an app serves. Raises DeclarationError if a declaration cannot work."""
    declarations = app.declarations()
    procedures, topics = app.compile(declarations)
    compiled: dict[int, CompiledProcedure | CompiledTopic] = {id(each.route): each for each in (*procedures, *topics)}
    handshake, message = middleware_names(arranged(app.middlewares), gates=True)
    routes = [compiled[id(each)] for each in sorted(declarations, key=lambda each: each.kind)]
    return Listing(
        dict(app.prefixes),
        handshake,
        [route_info(each, message) for each in routes],
        [describe_route(each, message) for each in routes],
    )


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


def _what(route: RouteInfo) -> str:
    if route.kind == "procedure":
        return f"{route.signature}" + (f" within {route.timeout:g} s" if route.timeout is not None else "")
    return f"{route.publish} {route.signature}" if route.signature is not None else f"{route.publish}"


def _columns(row: tuple[str, ...], widths: list[int]) -> str:
    padded = [text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)]
    return "  ".join(padded).rstrip()


def _with_middlewares(line: str, route: RouteInfo | None) -> list[str]:
    if route is None:
        return [line]
    rules = [f"           {kind} requires {' and '.join(rules)}" for kind, rules in route.requires.items()]
    return [line, f"           through {_chain(route.middlewares)}", *rules]


def _chain(names: list[str]) -> str:
    return " > ".join(names) if names else "no middleware"
