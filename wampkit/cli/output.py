"""What commands print: JSON for a terminal, problems as one line on stderr, and tracebacks at log level debug."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import click

from ..errors import DeclarationError, one_line
from ..runner.errors import CommandError, describe_error
from ..runner.stderr import is_writable

__all__ = ["inspecting", "json_text", "print_problem", "traceback_at"]


def print_problem(text: str) -> None:
    """Print a line to stderr, or nothing where stderr is a full pipe that is not read."""
    if is_writable():
        click.echo(one_line(text), err=True)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON for a terminal: characters that are not printable are escaped."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


@contextlib.contextmanager
def traceback_at(log_level: str) -> Iterator[None]:
    """At log level "debug", print the traceback of the app's exception behind a CommandError that is raised."""
    try:
        yield
    except CommandError as error:
        if log_level == "debug" and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise


@contextlib.contextmanager
def inspecting(log_level: str) -> Iterator[None]:
    """Load and examine an app: what its modules print goes to stderr, a wrong declaration becomes a CommandError."""
    with traceback_at(log_level), contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except DeclarationError as error:
            raise CommandError(describe_error(error)) from error
