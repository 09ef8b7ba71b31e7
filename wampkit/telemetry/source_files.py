"""Folders of source files, to distinguish stack frames of wampkit and libraries from those of the app."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

__all__ = ["PACKAGE", "folder_of"]

PACKAGE = f"{Path(__file__).parents[1]}{os.sep}"
"""The common prefix of the names of wampkit's own files."""


def folder_of(package: ModuleType) -> str:
    """The common prefix of the names of a package's files."""
    assert package.__file__ is not None
    return f"{Path(package.__file__).parent}{os.sep}"
