"""Folders of source files, by which the stack frames of wampkit and of libraries are told from the app's own."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

__all__ = ["PACKAGE", "folder_of"]

PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
"""The beginning of the names of wampkit's own files."""


def folder_of(package: ModuleType) -> str:
    """The beginning of the names of a package's files."""
    assert package.__file__ is not None
    return f"{Path(package.__file__).parent}{os.sep}"
