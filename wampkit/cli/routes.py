"""`wampkit routes`: list what an app serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
        lines = [json_text(_as_json(loaded))] if json else _as_text(loaded, middlewares=middlewares)
    for line in lines:
        click.echo(line)


def _as_json(app: App) -> dict[str, Any]:
    compiled = _compiled(app)
    handshake, message = middleware_names(lifecycle_of(app).settings.arranged, gates=True)
    described = [describe_route(each, message) for each in compiled]
    return {"prefixes": dict(app.prefixes), "handshake": handshake, "routes": described}


def _compiled(app: App) -> list[CompiledProcedure | CompiledTopic]:
    """The app's procedures in the order of their declaration, then its topics, without what wampkit adds."""
    lifecycle = lifecycle_of(app)
    declared = lifecycle.routes()
    procedures, topics = compile_app(lifecycle.settings, declared)
    compiled: dict[int, CompiledProcedure | CompiledTopic] = {id(each.route): each for each in (*procedures, *topics)}
    return [compiled[id(each)] for each in sorted(declared, key=lambda each: each.kind)]


# ---- text


def _as_text(app: App, *, middlewares: bool) -> list[str]:
    """A line for each prefix and route, in columns, and with `middlewares` what its messages pass below it."""
    compiled = _compiled(app)
    handshake, message = middleware_names(lifecycle_of(app).settings.arranged, gates=True)
    infos = [route_info(each, message) for each in compiled]
    rows = [("prefix", prefix, uri, "") for prefix, uri in app.prefixes.items()]
    rows += [(info.kind, info.declared, _usage(info), info.doc) for info in infos]
    lines = _columns([(kind, one_line(uri), one_line(usage), doc) for kind, uri, usage, doc in rows])
    if not middlewares:
        return lines
    prefixes, listed = lines[: len(app.prefixes)], lines[len(app.prefixes) :]
    below = [part for line, info in zip(listed, infos, strict=True) for part in (line, *_passed(info))]
    return [f"handshake  {_chain(handshake)}", *prefixes, *below]


def _usage(info: RouteInfo) -> str:
    if info.kind == "procedure":
        return f"{info.signature}" + (f" within {info.timeout:g} s" if info.timeout is not None else "")
    return f"{info.publish} {info.signature}" if info.signature is not None else f"{info.publish}"


def _columns(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    ]


def _passed(info: RouteInfo) -> list[str]:
    rules = [f"           {kind} requires {' and '.join(rules)}" for kind, rules in info.requires.items()]
    return [f"           through {_chain(info.middlewares)}", *rules]


def _chain(names: list[str]) -> str:
    return " > ".join(names) if names else "no middleware"
