"""What can be written on the command line, in the environment and in `pyproject.toml`, and how it is read."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from ..access.hosts import socket_url
from ..access.proxies import TrustedProxies
from ..app import DEFAULT_PATH
from ..connection.reader_choice import INLET
from ..errors import DeclarationError, suggestion
from ..networks import UNIX, read_address
from ..runner.loading import USAGE, CommandError, read_config

__all__ = [
    "COMMAND",
    "TAKES_JSON",
    "Seconds",
    "SocketPath",
    "app_argument",
    "client_options",
    "defaults",
    "json_arguments",
    "level_option",
    "option",
    "proxies_option",
    "secret_of",
    "source",
    "split_url",
    "strange_variables",
    "trying_options",
    "words_argument",
]

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # not generic before click 8.4

F = TypeVar("F", bound=Callable[..., Any])

PREFIX = "WAMPKIT"

SECRET = f"{PREFIX}_SECRET"
"""The variable that holds the secret of a login. On the command line every user of the machine could read it."""

COMMAND = {"auto_envvar_prefix": PREFIX, "show_default": True}

TAKES_JSON = {**COMMAND, "ignore_unknown_options": True}
"""Context settings of a command whose arguments may look like options, such as -1."""


# ---- the words


class Json(ParamType):
    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return json.loads(value, parse_constant=_no_json, parse_float=_finite)
        except (ValueError, RecursionError):
            hint = f"; quote text twice: '{json.dumps(value)}'" if not value.startswith(("{", "[", '"', "-")) else ""
            raise click.UsageError(f"the argument {value} is not JSON{hint}", ctx) from None


def _no_json(word: str) -> NoReturn:
    raise ValueError(word)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_json(text)


class Pair(ParamType):
    """A name and a value in one word; in the environment one such word a line."""

    envvar_list_splitter = "\n"

    def __init__(self, separator: str, name: str) -> None:
        self.separator = separator
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, separator, rest = value.partition(self.separator)
        if not separator or not name.strip():
            self.fail(f"{value!r} must have the form {self.name}", param, ctx)
        return name.strip(), rest.strip()


class Seconds(ParamType):
    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        with contextlib.suppress(ValueError):
            if 0 <= (seconds := float(value)) <= 86400:
                return seconds
        self.fail(f"{value!r} is no number of seconds between 0 and 86400", param, ctx)


class Networks(ParamType):
    """Addresses and networks with commas between them, or a list of them from the file."""

    name = "networks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = value.split(",") if isinstance(value, str) else value
        networks = tuple(word.strip() for word in words if word.strip())
        try:
            TrustedProxies(*networks)
        except DeclarationError as error:
            self.fail(str(error).removeprefix("trusted_proxies: "), param, ctx)
        return networks


class PeerAddress(ParamType):
    """An address, or the word "unix"."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != UNIX:
            try:
                read_address(value)
            except ValueError:
                self.fail(f"{value!r} is no address, and not the word {UNIX}", param, ctx)
        return str(value)


class SocketPath(ParamType):
    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.startswith("/") or any(each in value for each in "{}?# "):
            self.fail(f"{value!r} is no path such as {DEFAULT_PATH}", param, ctx)
        return str(value)


# ---- options that several commands share

option = functools.partial(click.option, show_envvar=True)

level_option = option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    default="info",
    help="The least that is logged. With debug, the app's mistakes show their traceback.",
)

app_argument = click.argument("app", required=False, envvar=f"{PREFIX}_APP", metavar="[APP]")

proxies_option = option(
    "--trusted-proxies",
    type=Networks(),
    metavar="NETWORKS",
    help="Proxies to believe about the client's address, such as \"10.0.0.0/8,unix\", in place of the app's own.",
)


def client_options(command: F) -> F:
    """The options that all commands share that talk to a server."""
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
    """The words of a command that talks to a server: its URL, which may be left out, and what to do there."""
    return click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar=metavar)


def split_url(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The URL of the server, and the other words of a command.

    Where the first word is no URL, the server is the one that `wampkit run` serves in this directory: its host, port
    and path come from the environment, `[tool.wampkit]` or the defaults.

    Raises:
        click.UsageError: The first word looks like a URL and is none.
        CommandError: There is no URL, and the port of `wampkit run` is not known before it runs.
    """
    ctx = click.get_current_context()
    if words and words[0].startswith(("ws://", "wss://")):
        with contextlib.suppress(ValueError):
            parts = urlsplit(words[0])
            if parts.hostname and parts.port != 0:
                return words[0], words[1:]
    elif not words or not _LIKE_AN_ADDRESS.match(words[0]):
        return _own_url(ctx), words
    raise click.UsageError(f"{words[0]!r} is no WebSocket URL; write ws://host:port/path", ctx)


_LIKE_AN_ADDRESS = re.compile(r"(https?://)?(localhost|\[[^]]*\]|[\w-]+(\.[\w-]+)+):\d+(/|$)")
"""A host and a port, where a URL belongs; a CURIE has no dots before its colon, and URIs of procedures no port."""


def _own_url(ctx: click.Context) -> str:
    assert ctx.parent is not None
    assert isinstance(ctx.parent.command, click.Group)
    run = ctx.parent.command.commands["run"].make_context("run", [], parent=ctx.parent).params
    if run["port"] == 0:
        raise CommandError("the port of `wampkit run` is 0, a free one; begin with the URL that it printed", USAGE)
    return socket_url(run["host"], run["port"], run["path"])


def json_arguments(words: Iterable[str]) -> list[Any]:
    """Words that are JSON, as values. Raises click.UsageError for one that is not."""
    ctx = click.get_current_context()
    return [Json().convert(word, None, ctx) for word in words]


def secret_of(authkey: str, file: Path | None) -> str:
    """The secret of a login: from the variable, from a file, or from whoever sits at the terminal.

    Raises:
        CommandError: There is none, or the file cannot be read.
    """
    secret = os.environ.get(SECRET)
    if file is not None:
        try:
            # Editors end a line; a secret that ends so cannot be typed anyway.
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise CommandError(f"--secret-file {file}: {why}", USAGE) from None
    if secret is not None:
        return secret
    if not sys.stdin.isatty():
        raise CommandError(f"--authkey needs a secret: set {SECRET}, or name a file with --secret-file", USAGE)
    typed: str = click.prompt(f"secret of {authkey}", hide_input=True, err=True)
    return typed


def trying_options(command: F) -> F:
    """What `check` tries. Only the command line says so: a variable such as WAMPKIT_HOST means something else."""
    trying = functools.partial(click.option, allow_from_autoenv=False)
    decorators = [
        trying("--origin", "try_origin", help="The Origin header, as a browser would send it."),
        trying("--address", "try_address", type=PeerAddress(), help='The address of the socket\'s peer, or "unix".'),
        trying("--host", "try_host", help="The Host header."),
        trying("--url", "try_url", help="Path and query, or a whole URL: it tells the host, and TLS by wss://."),
        trying("--cookie", "try_cookie", type=Pair("=", "NAME=VALUE"), multiple=True, help="A cookie."),
        trying("--header", "try_header", type=Pair(":", "'Name: value'"), multiple=True, help="Another HTTP header."),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


# ---- the environment and the file


def defaults(group: click.Group, directory: Path) -> dict[str, dict[str, Any]]:
    """What `[tool.wampkit]` says for each command of a group, as click's `default_map`.

    Raises:
        CommandError: The file cannot be read, or has a key that is no option.
    """
    names = {name: _names(command) for name, command in group.commands.items()}
    known = set().union(*names.values())
    values: dict[str, Any] = {}
    for key, value in read_config(directory).items():
        name = key.replace("-", "_")
        if name not in known:
            raise CommandError(
                f"pyproject.toml: [tool.wampkit] has no key {key!r}{suggestion(key, sorted(known))}", USAGE
            )
        values[name] = _as_typed(key, value)
    return {name: {key: values[key] for key in values.keys() & own} for name, own in names.items()}


def strange_variables(group: click.Group) -> Iterator[str]:
    """A line about each variable that looks like an option of a group's commands and is none."""
    options = {f"{PREFIX}_{name.upper()}" for command in group.commands.values() for name in _names(command)}
    known = options | {SECRET, INLET}
    for name in sorted(os.environ):
        if name.startswith(f"{PREFIX}_") and name not in known:
            yield f"{name} in the environment is no option{suggestion(name, sorted(known))}"


def _names(command: click.Command) -> set[str]:
    """What can be set from elsewhere: the options of a command, and which app."""
    return {
        each.name
        for each in command.params
        if each.name and (each.name == "app" or (isinstance(each, click.Option) and each.allow_from_autoenv))
    }


def _as_typed(key: str, value: Any) -> Any:
    """A value as it would be typed, so that it is checked as what is typed."""
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case dict():
            return [f"{name}={text}" for name, text in value.items()]
        case list() if all(isinstance(each, str) for each in value):
            return value
    raise CommandError(f"pyproject.toml: [tool.wampkit] {key}: no option takes this", USAGE)


def source(error: click.ClickException) -> str:
    """Where a wrong value came from, to be put before its error; empty for the command line."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None or not error.param.name:
        return ""
    match error.ctx.get_parameter_source(error.param.name):
        case ParameterSource.ENVIRONMENT:
            return f"{PREFIX}_{error.param.name.upper()}: "
        case ParameterSource.DEFAULT_MAP:
            return "[tool.wampkit] in pyproject.toml: "
    return ""
