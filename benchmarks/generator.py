"""The load generator: built once from `wampload.c`, run with arguments, and believed only if it found no fault."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Failure", "Fault", "build", "command", "figures"]

HERE = Path(__file__).parent
SOURCE = HERE / "wampload.c"


def _folder() -> Path:
    """Where the generator is built: beside its source, or in the user's cache where nothing can be written there."""
    beside = HERE / ".build"
    if os.access(beside if beside.exists() else HERE, os.W_OK):
        return beside
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wampkit-benchmarks"


EXECUTABLE = _folder() / "wampload"


class Failure(Exception):
    """A run that counts for nothing: a wrong or missing answer, a lost connection, a server that did not start."""


class Fault(Failure):
    """What the generator found wrong with a server."""


def build() -> None:
    """Compile the generator if it is older than its source.

    Raises:
        Failure: There is no compiler, or it does not like the source.
    """
    if EXECUTABLE.exists() and EXECUTABLE.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    if shutil.which("gcc") is None:
        raise Failure("gcc is needed to build the load generator; install it (Debian: apt install gcc libc6-dev)")
    EXECUTABLE.parent.mkdir(parents=True, exist_ok=True)
    made = EXECUTABLE.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        ["gcc", "-O2", "-w", "-o", str(made), str(SOURCE)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failure(f"gcc cannot build the load generator: {(done.stderr.splitlines() or ['no reason given'])[0]}")
    made.replace(EXECUTABLE)


def command(port: int, arguments: Sequence[str], options: Mapping[str, float]) -> list[str]:
    """A command line: arguments as they are, then options with a number each."""
    numbers = [word for name, value in options.items() for word in (f"--{name}", f"{value:g}")]
    return [str(EXECUTABLE), "--port", str(port), *arguments, *numbers]


def figures(output: str) -> dict[str, float]:
    """The figures of a run that found no fault.

    Raises:
        Fault: It found one.
    """
    try:
        result: dict[str, Any] = json.loads(output)
    except ValueError:
        raise Fault("the generator ended without figures") from None
    if not result.get("ok"):
        raise Fault(str(result.get("first_error") or result.get("error") or "the generator gives no reason"))
    if not result.get("rate"):
        raise Fault("nothing was answered in the time that was measured")
    return {name: float(value) for name, value in result.items() if type(value) in (int, float)}
