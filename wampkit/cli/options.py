"""Options and types that several commands share, and their values from the environment and `pyproject.toml`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click
from click.core import ParameterSource

from ..access.proxies import TrustedProxies
from ..connection.reader import READER_VARIABLES
from ..errors import DeclarationError, suggestion
from ..runner.errors import USAGE, CommandError

__all__ = [
    "COMMAND",
    "SECRET",
    "Command",
    "Pair",
    "ParamType",
    "Seconds",
    "app_argument",
    "defaults",
    "level_option",
    "option",
    "proxies_option",
    "read_config",
    "source",
    "unknown_variables",
]

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # not generic before click 8.4

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)

PREFIX = "WAMPKIT"

SECRET = f"{PREFIX}_SECRET"
"""The variable that holds the secret of a login. On the command line every user of the machine could read it."""

COMMAND: dict[str, Any] = {"auto_envvar_prefix": PREFIX, "show_default": True}


# ---- types


class Pair(ParamType):
    """A name and a value in one word; in the environment one such word a line."""

    envvar_list_splitter: ClassVar[str | None] = "\n"

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


# ---- options that several commands share


def option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option whose help names its environment variable; takes what `click.option` does."""
    return click.option(*names, show_envvar=True, **attributes)


def level_option(command: Command) -> Command:
    """Add `--log-level`."""
    return option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error", "critical"]),
        default="info",
        help="The least that is logged. With debug, the app's mistakes show their traceback.",
    )(command)


def app_argument(command: Command) -> Command:
    """Add the argument that names the app."""
    return click.argument("app", required=False, envvar=f"{PREFIX}_APP", metavar="[APP]")(command)


def proxies_option(command: Command) -> Command:
    """Add `--trusted-proxies`."""
    return option(
        "--trusted-proxies",
        type=Networks(),
        metavar="NETWORKS",
        help="Proxies to believe about the client's address, such as \"10.0.0.0/8,unix\", in place of the app's own.",
    )(command)


# ---- the environment and the file


def read_config(directory: Path) -> dict[str, Any]:
    """The table `[tool.wampkit]` of a directory's `pyproject.toml`; empty where there is none.

    Raises:
        CommandError: The file cannot be read.
    """
    file = directory / "pyproject.toml"
    try:
        text = file.read_text(encoding="utf-8")
        import tomllib  # only a directory with such a file needs it

        table = tomllib.loads(text).get("tool", {}).get("wampkit", {})
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CommandError(f"pyproject.toml: {error.strerror}", USAGE) from None
    except (ValueError, AttributeError) as error:
        raise CommandError(f"pyproject.toml: {error}", USAGE) from None
    if not isinstance(table, dict):
        raise CommandError("pyproject.toml: [tool.wampkit] must be a table", USAGE)
    return table


def defaults(group: click.Group, directory: Path) -> dict[str, dict[str, Any]]:
    """The values of `[tool.wampkit]` for each command of a group, as click's `default_map`.

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


def unknown_variables(group: click.Group) -> Iterator[str]:
    """A line for each environment variable that begins with WAMPKIT_ and belongs to no option of a group's commands."""
    options = {f"{PREFIX}_{name.upper()}" for command in group.commands.values() for name in _names(command)}
    known = options | {SECRET, *READER_VARIABLES}
    for name in sorted(os.environ):
        if name.startswith(f"{PREFIX}_") and name not in known:
            yield f"{name} in the environment is no option{suggestion(name, sorted(known))}"


def _names(command: click.Command) -> set[str]:
    """The parameters of a command that the environment and the file can set: its options, and the app."""
    return {
        each.name
        for each in command.params
        if each.name and (each.name == "app" or (isinstance(each, click.Option) and each.allow_from_autoenv))
    }


def _as_typed(key: str, value: Any) -> Any:
    """A value of the file in the form of a typed word, which click then converts and checks."""
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
    """The variable or file that a wrong value came from, to be put before its error; empty for the command line."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None or not error.param.name:
        return ""
    match error.ctx.get_parameter_source(error.param.name):
        case ParameterSource.ENVIRONMENT:
            return f"{PREFIX}_{error.param.name.upper()}: "
        case ParameterSource.DEFAULT_MAP:
            return "[tool.wampkit] in pyproject.toml: "
    return ""
