"""`wampkit routes`: list what an app serves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from ..app import App, lifecycle_of
from ..dispatch.compiler import CompiledProcedure, CompiledTopic
from ..errors import one_line
from ..runner.loading import load_app
from ..schema.routes import RouteInfo, describe_route, middleware_names, route_info
from ..server.runtime import compile_app
from .options import COMMAND, app_argument, level_option, option
from .output import inspecting, json_text

__all__ = ["routes"]


@click.command(context_settings=COMMAND)
@app_argument
@option("--middlewares", is_flag=True, help="Show what handshakes and messages pass, outermost first.")
@option("--json", is_flag=True, help="Print JSON.")
@level_option
def routes(app: str | None, middlewares: bool, log_level: str, json: bool) -> None:
    """List what an app serves: kinds, URIs, signatures."""
    with inspecting(log_level):
        loaded = load_app(app, Path.cwd())
        compiled = _compiled(loaded)
        gates, outer = middleware_names(lifecycle_of(loaded).settings.with_default_gates, gates=True)
        if json:
            described = [describe_route(each, outer) for each in compiled]
            lines = [json_text({"prefixes": dict(loaded.prefixes), "handshake": gates, "routes": described})]
        else:
            infos = [route_info(each, outer) for each in compiled]
            lines = _as_text(loaded.prefixes, infos, gates if middlewares else None)
    for line in lines:
        click.echo(line)


def _compiled(app: App) -> list[CompiledProcedure | CompiledTopic]:
    """The app's procedures in the order of their declaration, then its topics, without what wampkit adds."""
    lifecycle = lifecycle_of(app)
    declared = lifecycle.routes()
    procedures, topics = compile_app(lifecycle.settings, declared)
    compiled: dict[int, CompiledProcedure | CompiledTopic] = {id(each.route): each for each in (*procedures, *topics)}
    return [compiled[id(each)] for each in sorted(declared, key=lambda each: each.kind)]


# ---- text


def _as_text(prefixes: Mapping[str, str], routes: list[RouteInfo], gates: list[str] | None) -> list[str]:
    """A line for each prefix and route, in columns; with `gates`, these and the middlewares of each route as well."""
    rows = [("prefix", prefix, uri, "") for prefix, uri in prefixes.items()]
    rows += [(route.kind, route.declared, _usage(route), route.doc) for route in routes]
    lines = _columns([(kind, one_line(uri), one_line(usage), doc) for kind, uri, usage, doc in rows])
    if gates is None:
        return lines
    first, rest = lines[: len(prefixes)], lines[len(prefixes) :]
    below = [part for line, route in zip(rest, routes, strict=True) for part in (line, *_passed(route))]
    return [f"handshake  {_chain(gates)}", *first, *below]


def _usage(route: RouteInfo) -> str:
    if route.kind == "procedure":
        return f"{route.signature}" + (f" within {route.timeout:g} s" if route.timeout is not None else "")
    return f"{route.publish} {route.signature}" if route.signature is not None else f"{route.publish}"


def _columns(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    ]


def _passed(route: RouteInfo) -> list[str]:
    rules = [f"           {kind} requires {' and '.join(rules)}" for kind, rules in route.requires.items()]
    return [f"           through {_chain(route.middlewares)}", *rules]


def _chain(names: list[str]) -> str:
    return " > ".join(names) if names else "no middleware"
