"""The machine: what it is, which cores there are to keep apart, and how many files a process may open."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["cores", "describe", "facts", "open_files"]


def facts(*, uvloop: bool) -> dict[str, str]:
    """What figures depend on, apart from the code."""
    return {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "loop": "uvloop" if uvloop else "asyncio",
        **{name: _version(name) for name in ("wampkit", "aiohttp", "msgspec")},
        "date": time.strftime("%Y-%m-%d"),
    }


def describe(machine: dict[str, str]) -> str:
    """One line about the machine, for a table's head and a plot's foot."""
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']} on "
        f"{machine['loop']}, aiohttp {machine['aiohttp']}, wampkit {machine['wampkit']}, {machine['date']}"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cores() -> tuple[int | None, int | None]:
    """The server's core and the generator's, or None twice where they cannot be kept apart."""
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def open_files() -> int:
    """How many files each process may open, after the limit is raised as far as it goes without privileges."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard
