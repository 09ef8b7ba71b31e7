"""The command `wampkit` as a process of its own: started, listened to line by line, signalled, and waited for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from .forked import Forks

__all__ = ["PATIENCE", "Command", "command", "environment", "free_port", "wampkit", "write"]

ROOT = Path(__file__).parents[2]

PORTS = itertools.cycle(random.sample(range(10_000, 30_000), 20_000))
"""Each process goes through the ports in an order of its own."""

PATIENCE = 20.0
"""Seconds after which a process has had long enough to say something or to end."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: this checkout's wampkit, and no options but the given ones."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WAMPKIT_")}
    kept["RES_OPTIONS"] = "timeout:1 attempts:1"  # a name server that does not answer is soon given up
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, **(extra or {})}


def wampkit(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return _forks().run(args, cwd, environment(env))


@functools.cache
def _forks() -> Forks:
    return Forks(environment(), PATIENCE)


def free_port() -> int:
    """A port that nobody listens on, of those that no system gives away by itself: tests beside this take another."""
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Command:
    """A running command.

    Attributes:
        out: The lines of its stdout so far.
        err: The lines of its stderr so far.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.out: list[str] = []
        self.err: list[str] = []
        self._process = process
        self._news = asyncio.Event()
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            lines.append(line.decode().rstrip("\n"))
            self._news.set()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def printed(self, pattern: str, lines: list[str] | None = None, count: int = 1) -> re.Match[str]:
        """Wait for a line of stdout (or of `lines`) that matches; the `count`th of them."""
        lines = self.out if lines is None else lines
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    self._news.clear()
                    found = [match for line in lines if (match := re.search(pattern, line))]
                    if len(found) >= count:
                        return found[count - 1]
                    await self._news.wait()
        raise AssertionError(f"no line {pattern!r} came; stdout {self.out}, stderr {self.err}")

    async def said(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait for a line of stderr that matches."""
        return await self.printed(pattern, self.err, count)

    async def url(self, count: int = 1) -> str:
        """Where the server serves, once it does, for the `count`th time."""
        return (await self.printed(r"wampkit: (ws://\S+) serves", count=count))[1]

    async def exit(self, within: float = PATIENCE) -> int:
        """Its exit code; it must end within so many seconds."""
        async with asyncio.timeout(within):
            code = await self._process.wait()
        await asyncio.gather(*self._readers)
        return code


@contextlib.asynccontextmanager
async def command(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> AsyncIterator[Command]:
    """Start `wampkit`, and kill it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wampkit", *args),
        cwd=cwd,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    running = Command(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        await running.exit()


def write(directory: Path, **files: str) -> None:
    """Write modules, each given as `name=source`."""
    for name, source in files.items():
        (directory / f"{name}.py").write_text(source)
