"""The command `wampkit`: its group of commands, how errors are printed, and exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from .. import __version__
from ..runner.errors import USAGE, CommandError
from ..runner.process import exit_process
from .check import check
from .client import call, publish, subscribe
from .options import defaults, source, unknown_variables
from .output import print_problem
from .routes import routes
from .run import run

__all__ = ["main"]

INTERRUPTED = 130


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process: exit code 0, 2 for a wrong command, 1 for anything else that failed.

    Args:
        args: The arguments; those of the process if None.
    """
    exit_process(_run(args))


def _run(args: Sequence[str] | None) -> int:
    try:
        result = group.main(args, prog_name="wampkit", standalone_mode=False)
    except click.ClickException as error:
        path = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "wampkit"
        print_problem(f"{path}: {source(error)}{error.format_message()}")
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except CommandError as error:
        if str(error):
            print_problem(f"wampkit: {error}")
        return error.code
    return result if isinstance(result, int) else 0


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
    for line in unknown_variables(group):
        print_problem(f"wampkit: {line}")
    ctx.default_map = defaults(group, Path.cwd())


for _command in (run, routes, check, call, publish, subscribe):
    group.add_command(_command)
