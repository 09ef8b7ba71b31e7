"""Errors that end a command, and errors of the user's code in one line."""

from __future__ import annotations

import functools
import os
import re
import traceback
from pathlib import Path

import aiohttp
import click

from ..errors import DeclarationError, one_line
from ..telemetry.source_files import PACKAGE, folder_of

__all__ = ["USAGE", "CommandError", "describe_error", "short_path", "users_frame"]

USAGE = 2
"""The exit code of a command that is wrong itself."""


class CommandError(Exception):
    """A user's error, printed as one line; carries the exit code.

    Args:
        text: What is wrong and what would be right.
        code: The exit code: 2 where the command itself is wrong, 1 for everything else.
    """

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(one_line(text))
        self.code = code


def describe_error(error: BaseException) -> str:
    """An exception of the user's code in one line: file and line of that code, then class and text."""
    if isinstance(error, SyntaxError) and error.filename:
        return one_line(f"{short_path(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}")
    frame = users_frame(error)
    where = f"{short_path(frame.filename)}:{frame.lineno}: " if frame is not None else ""
    if isinstance(error, DeclarationError):
        # It explains itself, and names the place of what was declared earlier than here.
        return one_line(str(error) if _PLACE.search(str(error)) else f"{where}{error}")
    text = f": {error}" if str(error) else ""
    return one_line(f"{where}{type(error).__name__}{text}")


_PLACE = re.compile(r"\.py:\d+")

_OURS = (PACKAGE, folder_of(aiohttp), folder_of(click))
"""An error that wampkit itself raises passes these folders: they are no place of a mistake."""


def users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost frame of an exception that is the user's own code, or else the library's that raised it."""
    stdlib, libraries = _python_folders()
    frames = list(reversed(traceback.extract_tb(error.__traceback__)))
    own = next((frame for frame in frames if not frame.filename.startswith((*stdlib, *libraries, *_OURS))), None)
    if own is not None:
        return own
    # Libraries lie within the standard library's folder.
    raised = (
        frame for frame in frames if frame.filename.startswith(libraries) or not frame.filename.startswith(stdlib)
    )
    innermost = next(raised, None)
    return None if innermost is None or innermost.filename.startswith(_OURS) else innermost


@functools.cache
def _python_folders() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The beginnings of file names of the standard library, and of installed libraries."""
    import sysconfig  # slow to import, and only an error needs it

    stdlib = ("<", *(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")))
    return stdlib, tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))


def short_path(file: str) -> str:
    """A path relative to the working directory if it lies below it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
