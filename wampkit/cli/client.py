"""`wampkit call`, `publish` and `subscribe`: connect to a server, do one thing, and tell a failure in one line."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import os
import re
import signal
import ssl
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from ..client.client import Client, connect
from ..client.state import State
from ..client.subscriptions import Subscription
from ..errors import CallError, ConnectionLost
from ..runner.errors import USAGE, CommandError
from ..runner.serve import socket_url
from .options import COMMAND, SECRET, Pair, Seconds, option
from .output import json_text, print_problem

__all__ = ["call", "publish", "subscribe"]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

Connect = Callable[..., Client]

TAKES_JSON: dict[str, Any] = {**COMMAND, "ignore_unknown_options": True}
"""Context settings of a command whose arguments may look like options, such as -1."""


# ---- the commands


def client_options(command: F) -> F:
    """The options of all commands that talk to a server."""
    decorators = [
        option("--prefix", type=Pair("=", "NAME=URI"), multiple=True, help="What a CURIE stands for."),
        option("--header", type=Pair(":", "'Name: value'"), multiple=True, help="An HTTP header to send."),
        option("--cookie", type=Pair("=", "NAME=VALUE"), multiple=True, help="A cookie to send, such as a session's."),
        option("--origin", help="The Origin header to send."),
        option(
            "--cafile",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Certificates (PEM) to trust in place of the system's, for wss://.",
        ),
        option("--insecure", is_flag=True, help="Accept any certificate, for wss:// while developing."),
        option(
            "--authkey", metavar="NAME", help=f"As whom to log in; the secret is in {SECRET}, a file, or asked for."
        ),
        option("--secret-file", type=click.Path(dir_okay=False, path_type=Path), help="A file that holds the secret."),
        option("--timeout", type=Seconds(), default=30.0, help="How long to wait for the server."),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def words_argument(metavar: str) -> Callable[[F], F]:
    """All arguments of a command: the server's URL, which may be left out, and what to do there."""
    return click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar=metavar)


@click.command(context_settings=TAKES_JSON)
@client_options
@option("--json", is_flag=True, help="Print the result in one line.")
@words_argument("[URL] PROCEDURE [ARGS]...")
def call(words: tuple[str, ...], **options: Any) -> int:
    """Call a procedure and print its result as JSON. Each ARG is JSON: 2, '"text"', '[1, 2]'.

    Without a URL the server is the one that `wampkit run` serves in this directory.
    """
    url, (procedure, *rest) = _split(words, "PROCEDURE")
    args, connect_ = [_json_value(word) for word in rest], _connect_with(url, options)

    async def run() -> Any:
        async with connect_() as client:
            return await client.call(procedure, *args, timeout=options["timeout"])

    click.echo(json_text(_run(run()), indent=None if options["json"] else 2))
    return 0


@click.command(context_settings=TAKES_JSON)
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
    url, (topic, *events) = _split(words, "TOPIC", "EVENT")
    if len(events) > 1:
        raise click.UsageError(f"one EVENT is published at a time; {len(events)} came", click.get_current_context())
    event, connect_ = _json_value(events[0]), _connect_with(url, options)

    async def run() -> None:
        async with connect_() as client:
            await client.publish(
                topic,
                event,
                exclude_me=exclude_me,
                exclude=exclude or None,
                eligible=eligible or None,
                confirm=True,
                timeout=options["timeout"],
            )

    _run(run())
    return 0


@click.command(context_settings=COMMAND)
@client_options
@option("--count", type=click.IntRange(1), help="End after this number of events.")
@option("--json", is_flag=True, help="Print topic and event, as for several topics.")
@words_argument("[URL] TOPICS...")
def subscribe(words: tuple[str, ...], count: int | None, **options: Any) -> int:
    """Print a line of JSON for each event until Ctrl-C; of several topics, topic and event.

    Without a URL the server is the one that `wampkit run` serves in this directory.
    """
    url, topics = _split(words, "TOPICS")
    with contextlib.suppress(KeyboardInterrupt):
        labelled = options["json"] or len(topics) > 1
        try:
            _run(_print_events(_connect_with(url, options), topics, labelled, count))
        except BrokenPipeError:
            # The reader of stdout has gone; Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


# ---- their arguments


def _split(words: Sequence[str], *names: str) -> tuple[str, Sequence[str]]:
    """The URL of the server, and the other arguments of a command, of which those in `names` are required.

    Where the first word is no URL, the server is the one that `wampkit run` serves in this directory: its host, port
    and path come from the environment, `[tool.wampkit]` or the defaults.

    Raises:
        click.UsageError: The first word looks like a URL and is none, or an argument is missing.
        CommandError: There is no URL, and the port of `wampkit run` is not known before it runs.
    """
    ctx = click.get_current_context()
    if words and words[0].startswith(("ws://", "wss://")) and _has_host(words[0]):
        url, rest = words[0], words[1:]
    elif not words or not _LIKE_AN_ADDRESS.match(words[0]):
        url, rest = _local_url(ctx), words
    else:
        raise click.UsageError(f"{words[0]!r} is no WebSocket URL; write ws://host:port/path", ctx)
    if len(rest) < len(names):
        raise click.UsageError(f"Missing argument '{names[len(rest)]}'.", ctx)
    return url, rest


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


_LIKE_AN_ADDRESS = re.compile(r"wss?://|(https?://)?(localhost|\[[^]]*\]|[\w-]+(\.[\w-]+)+):\d+(/|$)")
"""A WebSocket URL, or a host and a port; a CURIE has no dots before its colon, and URIs of procedures no port."""


def _local_url(ctx: click.Context) -> str:
    assert ctx.parent is not None
    assert isinstance(ctx.parent.command, click.Group)
    run = ctx.parent.command.commands["run"].make_context("run", [], parent=ctx.parent).params
    if run["port"] == 0:
        raise CommandError("the port of `wampkit run` is 0, a free one; begin with the URL that it printed", USAGE)
    return socket_url(run["host"], run["port"], run["path"])


def _json_value(word: str) -> Any:
    """The value of an argument that is JSON. Raises click.UsageError if it is not."""
    try:
        return json.loads(word, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError):
        hint = f"; quote text twice: '{json.dumps(word)}'" if not word.startswith(("{", "[", '"', "-")) else ""
        raise click.UsageError(f"the argument {word} is not JSON{hint}", click.get_current_context()) from None


def _not_json(word: str) -> NoReturn:
    raise ValueError(word)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_json(text)


# ---- connecting


def _connect_with(url: str, options: dict[str, Any]) -> Connect:
    """`wampkit.connect` with the URL and the options of a command; prompts for a secret that is given nowhere.

    Raises:
        CommandError: Options contradict each other, or a file cannot be read.
    """
    logging.basicConfig(level="WARNING", format="wampkit: %(message)s")
    authkey = options["authkey"]
    typed = click.get_current_context().get_parameter_source("secret_file") is ParameterSource.COMMANDLINE
    if typed and authkey is None:
        raise CommandError("--secret-file needs --authkey: whose secret is it?", USAGE)
    return functools.partial(
        connect,
        url,
        prefixes=dict(options["prefix"]),
        headers=dict(options["header"]),
        cookies=dict(options["cookie"]),
        origin=options["origin"],
        authkey=authkey,
        secret=None if authkey is None else _secret_of(authkey, options["secret_file"]),
        ssl=_verification(options["cafile"], insecure=options["insecure"]),
        open_timeout=options["timeout"],
    )


def _secret_of(authkey: str, file: Path | None) -> str:
    """The secret of a login: from the file, else from the variable, else typed at the terminal."""
    if file is not None:
        try:
            # Editors end a line; a secret that ends so cannot be typed anyway.
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise CommandError(f"--secret-file {file}: {why}", USAGE) from None
    secret = os.environ.get(SECRET)
    if secret is not None:
        return secret
    if not sys.stdin.isatty():
        raise CommandError(f"--authkey needs a secret: set {SECRET}, or name a file with --secret-file", USAGE)
    typed: str = click.prompt(f"secret of {authkey}", hide_input=True, err=True)
    return typed


def _verification(cafile: Path | None, *, insecure: bool) -> ssl.SSLContext | bool:
    """The verification of the server's certificate: by the system's authorities, by those of a file, or none."""
    if cafile is None:
        return not insecure
    if insecure:
        raise CommandError("--insecure accepts any certificate; leave out --cafile", USAGE)
    try:
        return ssl.create_default_context(cafile=cafile)
    except ssl.SSLError:
        raise CommandError(f"--cafile {cafile}: there is no certificate (PEM) in it", USAGE) from None
    except OSError as error:
        raise CommandError(f"--cafile {cafile}: {error.strerror}", USAGE) from None


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop and return its result.

    Raises:
        click.exceptions.Exit: The server answered with an error, which has been printed.
        CommandError: The connection could not be made or was lost, or no answer came.
    """
    try:
        return asyncio.run(work)
    except CallError as error:
        print_problem(f"{error.uri}: {error.description}" if error.description else error.uri)
        if error.details is not None:
            click.echo(json_text(error.details), err=True)
        raise click.exceptions.Exit(1) from None
    except ConnectionLost as error:
        raise CommandError(error.reason) from error
    except TimeoutError as error:
        raise CommandError(f"{error} (--timeout)") from error
    except ValueError as error:
        raise CommandError(str(error), USAGE) from error


# ---- subscribing


async def _print_events(connect_: Connect, topics: Sequence[str], labelled: bool, count: int | None) -> None:
    """Print `count` events, or all until SIGINT or SIGTERM, across lost connections.

    Raises:
        CommandError: The server refused all topics.
        ConnectionLost: The connection could not be made, or is lost and not made again.
    """
    stop = asyncio.Event()

    async def print_those_of(subscription: Subscription) -> None:
        nonlocal count
        async for event in subscription:
            if count == 0:  # another topic's event was the last one
                return
            click.echo(json_text({"topic": subscription.topic, "event": event} if labelled else event))
            if count is not None:
                count -= 1
                if count == 0:
                    stop.set()

    async with connect_(on_state=_connection_notices()) as client, contextlib.AsyncExitStack() as stack:
        entered = [await stack.enter_async_context(client.subscribe(topic)) for topic in dict.fromkeys(topics)]
        for each in entered:
            if each.accepted is not False:  # a refusal has been logged
                print_problem(f"wampkit: subscribed to {json_text(each.topic)}")
        if all(each.accepted is False for each in entered):
            raise CommandError("no subscription is left to wait for")
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        waiter = asyncio.create_task(stop.wait())
        tasks = [waiter, *(asyncio.create_task(print_those_of(each)) for each in entered)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        for task in done:
            task.result()
        if not stop.is_set():
            raise client.error or ConnectionLost("the server closed the connection")


def _connection_notices() -> Callable[[State], None]:
    lost = False

    def tell(state: State) -> None:
        nonlocal lost
        if state is State.RECONNECTING:
            lost = True
            print_problem("wampkit: the connection is lost; trying to make it again")
        elif state is State.OPEN and lost:
            lost = False
            print_problem("wampkit: connected again")

    return tell
