"""The command `wampkit`: arguments, environment and printing; what the commands do is done elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from .. import __version__
from ..app import DEFAULT_PATH
from ..errors import CallError, DeclarationError, one_line
from ..runner import serve as server
from ..runner.children import ParentLink
from ..runner.loading import USAGE, CommandError, describe, load_app
from ..runner.process import leave
from ..runner.stderr import is_read
from ..runner.supervisor import run_reloading, run_workers
from ..telemetry.logs import logger_of
from . import check as checking
from . import client as talk
from .options import (
    COMMAND,
    TAKES_JSON,
    Seconds,
    SocketPath,
    app_argument,
    client_options,
    defaults,
    json_arguments,
    level_option,
    option,
    proxies_option,
    secret_of,
    source,
    split_url,
    strange_variables,
    trying_options,
    words_argument,
)
from .routes import as_text, listing_of

__all__ = ["main"]

logger = logger_of(__name__)

INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process: with 0, with 2 for a wrong command, with 1 for what failed.

    Args:
        args: The arguments; those of the process if None.
    """
    leave(_run(args))


def _run(args: Sequence[str] | None) -> int:
    try:
        result = group.main(args, prog_name="wampkit", standalone_mode=False)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "wampkit"
        _say(f"{path}: {source(error)}{error.format_message()}")
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except CommandError as error:
        if str(error):
            _say(f"wampkit: {error}")
        return error.code
    return result if isinstance(result, int) else 0


def _say(line: str) -> None:
    if is_read():
        click.echo(one_line(line), err=True)


@click.group(invoke_without_command=True, context_settings={"max_content_width": 110})
@click.version_option(__version__, message="wampkit %(version)s")
@click.pass_context
def group(ctx: click.Context) -> None:
    """WAMP v1 from one file: serve an app, look at it, and talk to a server.

    APP is module:attribute, or a function that makes the app; left out, it is `app` of [tool.wampkit] in
    pyproject.toml, or the one App in app.py or main.py. Each option is also a WAMPKIT_... variable, and a key of
    [tool.wampkit]: flags beat variables, variables beat the file.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(USAGE)
    for line in strange_variables(group):
        _say(f"wampkit: {line}")
    ctx.default_map = defaults(group, Path.cwd())


# ---- serving


@group.command(context_settings=COMMAND)
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
@option("--drain", type=Seconds(), default=10.0, help="How long calls under way are given at the end.")
@proxies_option
@option("--debug", is_flag=True, help="Callers see the text of unexpected errors.")
@option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", help="The event loop.")
@level_option
@option("--json", is_flag=True, help="Say what is served in JSON.")
def run(**options: Any) -> int:
    """Serve an app until Ctrl-C or SIGTERM: calls that began are answered; a second signal stops at once."""
    as_json = options.pop("json")
    settings = server.RunOptions(**options)
    if settings.reload and settings.workers > 1:
        raise CommandError("--reload runs one process; leave out --workers", USAGE)
    announce = functools.partial(_announce, settings, as_json)
    with _traceback_in(settings.log_level):
        tie = ParentLink.find()
        if tie is not None:
            tie.hold()
            server.run(tie.settings(settings), tie.announce, beat=tie.beat)
        elif settings.reload:
            return run_reloading(settings, announce)
        elif settings.workers > 1:
            return run_workers(settings, announce)
        else:
            server.run(settings, announce)
    return 0


def _announce(settings: server.RunOptions, as_json: bool, started: server.ServerInfo) -> None:
    about = {"url": started.url, "path": settings.path, "procedures": started.procedures, "topics": started.topics}
    line = json.dumps({**about, "console": started.console, "pid": os.getpid()})
    if not as_json:
        procedures, topics = _count(started.procedures, "procedure"), _count(started.topics, "topic")
        many = f", {settings.workers} workers" if settings.workers > 1 else ""
        line = f"wampkit: {started.url} serves {procedures} and {topics} (pid {os.getpid()}{many})"
        if started.console is not None:
            line += f"\nwampkit: open {started.console} in a browser to see and try all of it"
    with contextlib.suppress(BrokenPipeError):
        click.echo(line)
    if started.any_origin:
        logger.warning(
            "the pages of any site may connect, with the cookies of whoever looks at them; name those that may: "
            'App(middlewares=[AllowOrigins("https://example.com")])'
        )
    if started.exposed:
        logger.warning(
            "whoever can connect sees the console, with all connections, topics and errors; say who may: "
            'App(console=requires("admin"))'
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextlib.contextmanager
def _traceback_in(level: str) -> Iterator[None]:
    """With the level debug, show where in the app a mistake was made."""
    try:
        yield
    except CommandError as error:
        if level == "debug" and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise


@group.command(context_settings=COMMAND)
@app_argument
@option("--middlewares", is_flag=True, help="Show what handshakes and messages pass, outermost first.")
@option("--json", is_flag=True, help="Print JSON.")
@level_option
def routes(app: str | None, middlewares: bool, log_level: str, **options: Any) -> None:
    """List what an app serves: kinds, URIs, signatures."""
    # What the app prints while it is imported must not get between what a script reads.
    with _traceback_in(log_level), contextlib.redirect_stdout(sys.stderr):
        loaded = load_app(app, Path.cwd())
        try:
            listing = listing_of(loaded)
        except DeclarationError as error:
            raise CommandError(describe(error)) from error
    if options["json"]:
        click.echo(talk.json_text(listing.as_json()))
    else:
        for line in as_text(listing, middlewares=middlewares):
            click.echo(line)


@group.command(context_settings=COMMAND)
@app_argument
@trying_options
@proxies_option
@option("--json", is_flag=True, help="Print JSON.")
@level_option
def check(app: str | None, trusted_proxies: tuple[str, ...] | None, log_level: str, **options: Any) -> int:
    """Show who may connect, gate by gate, and try it: what a handshake would meet, and why.

    The app's own gates judge a handshake that is made up of what is given; the app is not started, and nothing
    listens. Exit code 1 if it is refused.
    """
    with _traceback_in(log_level), contextlib.redirect_stdout(sys.stderr):
        attempt = checking.attempt_of({name.removeprefix("try_"): value for name, value in options.items()})
        loaded = load_app(app, Path.cwd())
        if trusted_proxies is not None:
            server.trust(loaded, trusted_proxies)
        try:
            report = checking.check(loaded, attempt)
        except DeclarationError as error:
            raise CommandError(describe(error)) from error
    for line in [talk.json_text(report.as_json())] if options["json"] else report.as_text():
        click.echo(line)
    return 0 if report.let_in else 1


# ---- talking


def _needed(words: Sequence[str], *names: str) -> Sequence[str]:
    """The words of a command, if each of these was given."""
    if len(words) < len(names):
        raise click.UsageError(f"Missing argument '{names[len(words)]}'.", click.get_current_context())
    return words


def _server(url: str, options: dict[str, Any]) -> talk.Server:
    logging.basicConfig(level="WARNING", format="wampkit: %(message)s")
    authkey = options["authkey"]
    typed = click.get_current_context().get_parameter_source("secret_file") is ParameterSource.COMMANDLINE
    if typed and authkey is None:
        raise CommandError("--secret-file needs --authkey: whose secret is it?", USAGE)
    return talk.Server(
        url=url,
        prefixes=dict(options["prefix"]),
        headers=dict(options["header"]),
        cookies=dict(options["cookie"]),
        cafile=options["cafile"],
        insecure=options["insecure"],
        origin=options["origin"],
        authkey=authkey,
        secret=None if authkey is None else secret_of(authkey, options["secret_file"]),
        timeout=options["timeout"],
    )


@group.command(context_settings=TAKES_JSON)
@client_options
@option("--json", is_flag=True, help="Print the result in one line.")
@words_argument("[URL] PROCEDURE [ARGS]...")
def call(words: tuple[str, ...], **options: Any) -> int:
    """Call a procedure and print its result as JSON. Each ARG is JSON: 2, '"text"', '[1, 2]'.

    Without a URL the server is the one that `wampkit run` serves in this directory.
    """
    url, rest = split_url(words)
    procedure, *words_of_args = _needed(rest, "PROCEDURE")
    args = json_arguments(words_of_args)
    try:
        result = asyncio.run(talk.call(_server(url, options), procedure, args))
    except CallError as error:
        return _refused(error)
    click.echo(talk.json_text(result, indent=None if options["json"] else 2))
    return 0


def _refused(error: CallError) -> int:
    _say(f"{error.uri}: {error.description}" if error.description else error.uri)
    if error.details is not None:
        click.echo(talk.json_text(error.details), err=True)
    return 1


@group.command(context_settings=TAKES_JSON)
@client_options
@option("--exclude-me/--include-me", default=None, help="Whether this client is left out; else the server decides.")
@option("--exclude", multiple=True, metavar="ID", help="A session that shall not receive it.")
@option("--eligible", multiple=True, metavar="ID", help="A session that may receive it; all others may not.")
@words_argument("[URL] TOPIC EVENT")
def publish(
    words: tuple[str, ...],
    exclude_me: bool | None,
    exclude: tuple[str, ...],
    eligible: tuple[str, ...],
    **options: Any,
) -> int:
    """Publish one EVENT, which is JSON. Exit code 1 if a wampkit server refuses it.

    WAMP v1 itself has no answer to a publish: other servers do not tell a refusal. No server tells who received it.
    Without a URL the server is the one that `wampkit run` serves in this directory.
    """
    url, rest = split_url(words)
    topic, *events = _needed(rest, "TOPIC", "EVENT")
    if len(events) > 1:
        raise click.UsageError(f"one EVENT is published at a time; {len(events)} came", click.get_current_context())
    (event,) = json_arguments(events)
    receivers = {"exclude_me": exclude_me, "exclude": exclude or None, "eligible": eligible or None}
    try:
        asyncio.run(talk.publish(_server(url, options), topic, event, **receivers))
    except CallError as error:
        return _refused(error)
    return 0


@group.command(context_settings=COMMAND)
@client_options
@option("--count", type=click.IntRange(1), help="End after so many events.")
@option("--json", is_flag=True, help="Print topic and event, as for several topics.")
@words_argument("[URL] TOPICS...")
def subscribe(words: tuple[str, ...], count: int | None, **options: Any) -> int:
    """Print a line of JSON for each event until Ctrl-C; of several topics, topic and event.

    Without a URL the server is the one that `wampkit run` serves in this directory.
    """
    url, rest = split_url(words)
    topics = _needed(rest, "TOPICS")
    left = count

    def on_event(topic: str, event: Any) -> None:
        nonlocal left
        labelled = options["json"] or len(topics) > 1
        click.echo(talk.json_text({"topic": topic, "event": event} if labelled else event))
        if left is not None:
            left -= 1
            if left == 0:
                raise _EnoughError

    try:
        asyncio.run(talk.subscribe(_server(url, options), topics, on_event, lambda line: _say(f"wampkit: {line}")))
    except BrokenPipeError:
        # Whoever read the events has gone; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (_EnoughError, KeyboardInterrupt):
        pass
    return 0


class _EnoughError(Exception):
    """As many events have come as were wanted."""
