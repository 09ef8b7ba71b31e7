"""`wampkit run`: serve an app."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from typing import Any

import click

from ..app import DEFAULT_PATH
from ..runner.children import ParentLink
from ..runner.errors import USAGE, CommandError
from ..runner.serve import RunOptions, ServerInfo, serve
from ..runner.supervisor import supervise
from ..telemetry.logs import logger_of
from .options import COMMAND, ParamType, Seconds, app_argument, level_option, option, proxies_option
from .output import traceback_at

__all__ = ["run"]

logger: logging.Logger = logger_of(__name__)


class SocketPath(ParamType):
    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.startswith("/") or any(each in value for each in "{}?# "):
            self.fail(f"{value!r} is no path such as {DEFAULT_PATH}", param, ctx)
        return str(value)


@click.command(context_settings=COMMAND)
@app_argument
@option("--host", default="127.0.0.1", help="The address or name to listen on.")
@option("--port", type=click.IntRange(0, 65535), default=8080, help="The port; 0 takes a free one.")
@option("--path", type=SocketPath(), default=DEFAULT_PATH, help="The socket's path.")
@option("--reload", is_flag=True, help="Start anew when a source file changes.")
@option("--workers", type=click.IntRange(1, 256), default=1, help="How many processes serve the port.")
@option(
    "--worker-timeout",
    type=Seconds(),
    default=30.0,
    help="How long a worker's event loop may stand still until it is replaced; 0 for ever.",
)
@option("--broker", metavar="URL", help="What carries events, in place of the app's own broker.")
@option("--drain", type=Seconds(), default=10.0, help="How long running calls are given when the server stops.")
@proxies_option
@option("--debug", is_flag=True, help="Callers see the text of unexpected errors.")
@option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", help="The event loop.")
@level_option
@option("--json", is_flag=True, help="Say what is served in JSON.")
def run(**given: Any) -> int:
    """Serve an app until Ctrl-C or SIGTERM: calls that began are answered; a second signal stops at once."""
    as_json = given.pop("json")
    options = RunOptions(**given)
    if options.reload and options.workers > 1:
        raise CommandError("--reload runs one process; leave out --workers", USAGE)
    announce = functools.partial(_announce, options, as_json)
    with traceback_at(options.log_level):
        parent = ParentLink.find()
        if parent is not None:
            parent.attach()
            serve(parent.restrict(options), parent.announce, beat=parent.beat)
        elif options.reload or options.workers > 1:
            return supervise(options, announce)
        else:
            serve(options, announce)
    return 0


def _announce(options: RunOptions, as_json: bool, server: ServerInfo) -> None:
    """Print what is served, and warn of what any client may use."""
    if as_json:
        about = {"url": server.url, "path": options.path, "procedures": server.procedures, "topics": server.topics}
        text = json.dumps({**about, "console": server.console, "pid": os.getpid()})
    else:
        procedures, topics = _count(server.procedures, "procedure"), _count(server.topics, "topic")
        workers = f", {options.workers} workers" if options.workers > 1 else ""
        text = f"wampkit: {server.url} serves {procedures} and {topics} (pid {os.getpid()}{workers})"
        if server.console is not None:
            text += f"\nwampkit: open {server.console} in a browser to see and try all of it"
    with contextlib.suppress(BrokenPipeError):
        click.echo(text)
    if server.any_origin:
        logger.warning(
            "the pages of any site may connect, with the cookies of their visitors; name those that may: "
            'App(middlewares=[AllowOrigins("https://example.com")])'
        )
    if server.exposed:
        logger.warning(
            "every client that can connect sees the console, with all connections, topics and errors; say who may: "
            'App(console=requires("admin"))'
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
